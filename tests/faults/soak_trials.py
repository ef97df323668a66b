"""Many short trials on one Ray, and what its processes hold: `python -m tests.faults.soak_trials --trials 200`.

The trials are Round 1's, of a tiny size on toy games, run as a grid runs them: two at once, each process serving one
after another. Every two seconds the driver and all of Ray's processes are counted. Samples go into `--out`; the last
line has medians of each third of the time, and what grew after two fifths of the trials had ended.
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

from tests.faults.footprint import HELD, Footprint, watching
from tune.resources import Cluster, plan_resources
from tune.trials import TrialRun, run_trials
from tune.variants import ROUND1, GridPlan, Trial, make_trials
from worldmodel.run.run import EVALUATION
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
    place = {"data.dataset_dir": str(blocks), "save_dir": str(folder), "tracking.group": folder.name}
    return make_trials(GridPlan(seeds=-(-count // len(ROUND1)), settings=CHANGES, place=place))[:count]


def run_all(
    trials: Sequence[Trial], folder: Path, every: float = EVERY
) -> tuple[list[Footprint], dict[str, str], float]:
    """Run trials on a Ray of their own; the footprint of this process and Ray's all along, what failed, and when the
    footprint's seconds began, in seconds since 1970."""
    from worldmodel.ray_session import join_ray

    join_ray()
    how = TrialRun(folder=Location.of(folder), resources=plan_resources(Cluster.find(), 0, 1))
    with watching(os.getpid(), every) as watch:
        failed = run_trials(trials, how)
    return watch.samples, failed, time.time() - (time.monotonic() - watch.began)


def summarize(samples: Sequence[Footprint]) -> dict[str, list[float]]:
    """Medians of each third of the samples."""
    thirds = np.array_split(np.arange(len(samples)), 3)
    return {
        name: [round(float(np.median([getattr(samples[k], name) for k in third])), 1) for third in thirds]
        for name in HELD
    }


def find_settled(samples: Sequence[Footprint], began: float, folder: Path) -> list[Footprint]:
    """The samples after two fifths of the trials had ended: before that processes start, and their caches fill.

    `began`: when the first sample's clock began, in seconds since 1970.
    """
    ends = sorted(path.stat().st_mtime - began for path in folder.glob(f"*/{EVALUATION}"))
    return [sample for sample in samples if ends[len(ends) * 2 // 5] < sample.seconds < ends[-1]]


def grow_settled(samples: Sequence[Footprint]) -> dict[str, float]:
    """How much more of each is held in the second half of the samples, by medians."""
    halves = np.array_split(np.arange(len(samples)), 2)
    medians = [{name: np.median([getattr(samples[k], name) for k in half]) for name in HELD} for half in halves]
    return {name: round(float(medians[1][name] - medians[0][name]), 2) for name in HELD}


def main() -> int:
    """Run the trials, keep the samples, and say what grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--every", type=float, default=EVERY, help="seconds between two samples")
    parser.add_argument("--out", type=Path, default=Path("soak_trials.json"))
    options = parser.parse_args()
    from tests.games_on_disk import encode_toy_games

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        trials = list_trials(options.trials, encode_toy_games(folder, GAMES), folder / "grid")
        samples, failed, since = run_all(trials, folder / "grid", options.every)
        settled = find_settled(samples, since, folder / "grid")
    facts = {
        "trials": options.trials, "failed": failed, "seconds": round(time.monotonic() - began, 1),
        "thirds": summarize(samples), "settled_samples": len(settled), "grown": grow_settled(settled),
    }  # fmt: skip
    options.out.write_text(json.dumps({**facts, "samples": [asdict(sample) for sample in samples]}, indent=1))
    print(json.dumps(facts))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
