"""A grid of which everything was killed goes on and ends with the table of one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.games_on_disk import encode_toy_games
from tune.record import GRID, read_grid
from tune.report import JSON
from worldmodel.object_store import MissingError
from worldmodel.run.record import State
from worldmodel.run.run_folder import read_record
from worldmodel.storage import Location

ROOT = Path(__file__).parents[2]
SIZE = (
    "model.d_model=32", "model.d_state=8", "model.headdim=16", "model.n_layers=1", "training.sequence_length=64",
    "training.batch_size=16", "training.device=cpu", "training.num_epochs=6", "training.checkpoint_minutes=0.0001",
    "training.log_interval=1", "tracking.wandb=disabled",
)  # fmt: skip
LEARNT = ("experiment", "horizon", "steps", "metrics", "difference", "trials", "failures")
"""What a row says that does not depend on the clock."""
NAMES = ("baseline-seed0", "1a-seed0")


def start(folder: Path, blocks: Path, *more: str, **environment: str) -> subprocess.Popen[bytes]:
    """A grid of two experiments, in a session of its own; on a Ray of its own where `environment` names none."""
    asked = [
        sys.executable, "tune/round1.py", "--data", str(blocks), "--storage", str(folder), "--name", "grid",
        "--experiments", "baseline", "1a", "--skip-doctor", "--set", *SIZE, *more,
    ]  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        asked, cwd=ROOT, env={**kept, **environment}, stdout=subprocess.DEVNULL, start_new_session=True
    )


def kill_everything(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for the grid, its Ray and all of Ray's workers."""
    doomed = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in doomed:
        one.suspend()  # so that none of them can begin another
    doomed = [*doomed, *psutil.Process(process.pid).children(recursive=True)]
    for one in doomed:
        if one.is_running():
            one.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs(doomed, timeout=20)


def find_steps(folder: Path) -> dict[str, int]:
    """Steps of each trial so far."""
    found = {}
    for name in NAMES:
        try:
            found[name] = read_record(Location.of(folder / "grid" / name)).step
        except MissingError:
            found[name] = 0
    return found


def read_table(folder: Path) -> list[Any]:
    """The final table, but for times and dollars."""
    found = json.loads((folder / "grid" / JSON).read_text())
    rows = [{name: row[name] for name in LEARNT} for table in found["tables"] for row in table["rows"]]
    references = [table.get("references") for table in found["tables"]]
    return [rows, references, [(trial["name"], trial["metrics"]) for trial in found["trials"]]]


@pytest.mark.faults
@pytest.mark.ray
@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(1200)
def test_a_grid_that_was_killed_with_its_ray_ends_with_the_same_table(tmp_path: Path) -> None:
    encode_toy_games(tmp_path, 6)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(whole, tmp_path / "blocks").wait() == 0
    process, until = start(broken, tmp_path / "blocks"), time.monotonic() + 600
    while max(find_steps(broken).values()) < 5:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    kill_everything(process)
    steps = find_steps(broken)
    grid = read_grid(Location.of(broken / "grid"))
    assert (broken / "grid" / GRID).exists()
    assert grid.state is State.LOST  # nobody could say anything
    assert not (broken / "grid" / JSON).exists()
    assert start(broken, tmp_path / "blocks", "--resume").wait() == 0
    assert read_table(broken) == read_table(whole)
    begun = [name for name, step in steps.items() if step]
    for name in begun:
        record = read_record(Location.of(broken / "grid" / name))
        assert record.state is State.FINISHED
        assert [attempt.state for attempt in record.attempts] in ([State.LOST], [])
    assert any(read_record(Location.of(broken / "grid" / name)).attempts for name in begun)
