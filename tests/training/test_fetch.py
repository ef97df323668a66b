"""A fetched run is the run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from worldmodel.errors import UserError
from worldmodel.storage import Location
from worldmodel.training.checkpoint import (
    WEIGHTS,
    Best,
    Checkpoint,
    CheckpointState,
    load_checkpoint,
    name_folder,
    save_checkpoint,
)
from worldmodel.training.checkpoint_list import find_checkpoint, mark_best
from worldmodel.training.config import ExperimentConfig
from worldmodel.training.fetch import fetch_run
from worldmodel.training.run_folder import read_config, read_record, start_run


@pytest.fixture
def run(tmp_path: Path) -> Location:
    """A finished run with checkpoints at steps 1 and 2, the first of which is the best."""
    run = start_run(Location.of(tmp_path / "runs"), ExperimentConfig(name="trial"), total_steps=2)
    with run.recording():
        for step in (1, 2):
            weights = {"w": torch.full((3,), float(step))}
            state = CheckpointState(step=step)
            save_checkpoint(run.location, Checkpoint(weights=weights, optimizer={}, state=state))
            run.note_step(step)
        mark_best(run.location, Best(metric="m", value=0.5, step=1, path=name_folder(1)))
    return run.location


@pytest.mark.parametrize(("which", "step"), [("newest", 2), ("best", 1), ("1", 1)])
def test_a_fetched_run_reads_like_the_run(run: Location, tmp_path: Path, which: str, step: int) -> None:
    target = tmp_path / "home"
    folder = fetch_run(run, target, which)
    home = Location.of(target)
    assert read_record(home) == read_record(run)
    assert read_config(home) == read_config(run)
    assert find_checkpoint(home, which) == Location.of(folder)
    assert load_checkpoint(Location.of(folder)).weights["w"].tolist() == [step] * 3


def test_a_fetch_can_be_repeated_and_damage_at_the_source_is_named(run: Location, tmp_path: Path) -> None:
    target = tmp_path / "home"
    folder = fetch_run(run, target)
    (run / name_folder(2) / WEIGHTS).write_bytes(b"damaged")
    assert fetch_run(run, target) == folder
    with pytest.raises(UserError, match=r"weights.safetensors is damaged"):
        fetch_run(run, tmp_path / "other")


def test_a_fetch_of_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no checkpoint 'newest'.*none"):
        fetch_run(Location.of(tmp_path / "nothing"), tmp_path / "home")
