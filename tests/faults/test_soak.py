"""A grid of trials on one Ray holds no more at its end than in its middle; `soak_trials.py` is the long form."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.xdist_group("ray")]
ROOT = Path(__file__).parents[2]
ALLOWED = {"memory_mib": 200.0, "threads": 14.0, "files": 30.0, "processes": 1.0, "shared_mib": 8.0}
"""What may be held more in the last trials than in those before: a second trial at once, and two threads and four files
of each. Memory still grows after 20 trials, for caches fill: of that only the long form can judge."""


@pytest.mark.timeout(400)
def test_twenty_trials_on_one_ray_leave_nothing_behind(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "WANDB_"))}
    done = subprocess.run(
        [
            sys.executable, "-m", "tests.faults.soak_trials", "--trials", "20", "--every", "0.5",
            "--out", str(tmp_path / "found.json"),
        ],
        cwd=ROOT, env={**environment, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=380,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    print(found["seconds"], found["thirds"], found["grown"])
    assert found["settled_samples"] >= 6
    assert {name: grown for name, grown in found["grown"].items() if grown > ALLOWED[name]} == {}
