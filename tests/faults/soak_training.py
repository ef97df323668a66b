"""An hour of one small training, its memory sampled all along: `python -m tests.faults.soak_training --minutes 60`.

The run is the command line's own: checkpoints, validation, metrics and an offline W&B run beside it. Its samples go
into `--out`; the last line says what grew between the second third of the time and the last one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import yaml

from tests.faults.footprint import HELD, Footprint, grow, watching

EVERY = 10.0
"""Seconds between two samples."""
CONFIG = {
    "model": {"d_model": 64, "d_state": 16, "headdim": 32, "n_layers": 2},
    "training": {
        "sequence_length": 64, "batch_size": 8, "num_epochs": 100_000, "device": "cpu", "threads": 1, "amp": False,
        "checkpoint_minutes": 1.0,
    },
    "tracking": {"wandb": "offline"},
}  # fmt: skip


def train_for(minutes: float, folder: Path, every: float = EVERY) -> tuple[list[Footprint], int, int]:
    """Train in a process of its own for so long; its footprint all along, the exit status, and the steps done."""
    from worldmodel.games.toy import write_toy_games

    write_toy_games(folder / "toy", 40, seed=0)
    (folder / "soak.yaml").write_text(yaml.safe_dump(CONFIG))
    command = [
        sys.executable, "-m", "worldmodel.cli.main", "train", str(folder / "soak.yaml"), "--data", str(folder / "toy"),
        "--storage", str(folder / "runs"), "--budget-hours", str(minutes / 60),
    ]  # fmt: skip
    with (
        (folder / "out.txt").open("w") as out,
        subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        ) as process,
        watching(process.pid, every) as watch,
    ):
        status = process.wait()
    record = json.loads((folder / "runs" / "soak" / "run.json").read_text())
    return watch.samples, status, int(record["step"])


def main() -> int:
    """Train, keep the samples, and say what grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=Path("soak_training.json"))
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        samples, status, steps = train_for(options.minutes, Path(folder))
        log = (Path(folder) / "out.txt").read_text()
    grown = {name: round(grow(samples, name), 2) for name in HELD}
    facts = {"seconds": time.monotonic() - began, "status": status, "steps": steps, "grown": grown}
    options.out.write_text(json.dumps({**facts, "samples": [asdict(s) for s in samples], "log": log[-2000:]}, indent=1))
    print(json.dumps(facts))
    return 0 if status == 130 else 1  # 130: its budget stopped it


if __name__ == "__main__":
    sys.exit(main())
