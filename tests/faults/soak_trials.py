"""Many short trials on one Ray, and what its processes hold: `python -m tests.faults.soak_trials --trials 200`.

The trials are Round 1's, of a tiny size on toy games, run as a grid runs them: two at once, each process serving one
after another. Every two seconds the driver and all of Ray's processes are counted. Samples go into `--out`; the last
line says what grew between the second third of the time and the last one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.footprint import HELD, Footprint, grow, watching
from tune.grid import ROUND1, GridOptions, Trial, make_trials
from tune.trials import Cluster, TrialRun, plan_resources, run_trials
from worldmodel.storage import Location

EVERY = 2.0
"""Seconds between two samples."""
GAMES = 4
CHANGES: dict[str, Any] = {
    "model.d_model": 32, "model.d_state": 8, "model.headdim": 16, "model.n_layers": 1, "training.sequence_length": 64,
    "training.batch_size": 8, "training.amp": False, "training.device": "cpu", "training.threads": 1,
    "training.max_steps": 6, "training.rollout_starts": 4, "tracking.wandb": "offline",
}  # fmt: skip


def list_trials(count: int, blocks: Path, folder: Path) -> list[Trial]:
    """So many trials: Round 1's experiments, seed by seed."""
    options = GridOptions(
        seeds=-(-count // len(ROUND1)), data=str(blocks), folder=str(folder), group=folder.name, changes=CHANGES
    )
    return make_trials(options)[:count]


def run_all(trials: Sequence[Trial], folder: Path, every: float = EVERY) -> tuple[list[Footprint], dict[str, str]]:
    """Run trials on a Ray of their own; the footprint of this process and Ray's all along, and what failed."""
    from worldmodel.ray_session import join_ray

    join_ray()
    how = TrialRun(folder=Location.of(folder), resources=plan_resources(Cluster.find(), 0, 1))
    with watching(os.getpid(), every) as watch:
        failed = run_trials(trials, how)
    return watch.samples, failed


def summarize(samples: Sequence[Footprint]) -> dict[str, list[float]]:
    """Medians of each third of the samples."""
    thirds = np.array_split(np.arange(len(samples)), 3)
    return {
        name: [round(float(np.median([getattr(samples[k], name) for k in third])), 1) for third in thirds]
        for name in HELD
    }


def main() -> int:
    """Run the trials, keep the samples, and say what grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("soak_trials.json"))
    options = parser.parse_args()
    from tests.games_on_disk import encode_here
    from worldmodel.games.toy import write_toy_games

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_toy_games(folder / "toy", GAMES, seed=0)
        encode_here(folder / "toy", folder / "blocks")
        samples, failed = run_all(list_trials(options.trials, folder / "blocks", folder / "grid"), folder / "grid")
    grown = {name: round(grow(samples, name), 2) for name in HELD}
    facts = {
        "trials": options.trials, "failed": failed, "seconds": round(time.monotonic() - began, 1),
        "thirds": summarize(samples), "grown": grown,
    }  # fmt: skip
    options.out.write_text(json.dumps({**facts, "samples": [asdict(sample) for sample in samples]}, indent=1))
    print(json.dumps(facts))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
