"""The experiment that tests of `worldmodel train` are about, and what they read of its run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from worldmodel.storage import Location
from worldmodel.training.checkpoint import Checkpoint
from worldmodel.training.checkpoint_list import newest_good
from worldmodel.training.feed import Batch, Feed

EXPERIMENT: dict[str, Any] = {
    "goal": "to see it work",
    "model": {"d_model": 32, "d_state": 8, "headdim": 16, "n_layers": 1},
    "training": {
        "sequence_length": 64, "batch_size": 16, "num_epochs": 2, "amp": False, "device": "cpu", "threads": 1,
        "log_interval": 3, "test_split": 0.0,
    },
}  # fmt: skip


def write_experiment(folder: Path, **changes: Any) -> Path:
    """An experiment file; `training` and the like are merged."""
    values = {**EXPERIMENT, **{k: {**EXPERIMENT.get(k, {}), **v} for k, v in changes.items()}}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def read_files(storage: Path) -> dict[Path, bytes]:
    """Every file but W&B's, whose own process still writes its log."""
    return {path: path.read_bytes() for path in storage.rglob("*") if path.is_file() and "wandb" not in path.parts}


def take_newest(run: Path) -> Checkpoint:
    found = newest_good(Location.of(run)).checkpoint
    assert found is not None
    return found


def slow_down(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Every batch takes so much longer."""
    quick = Feed.batches

    def batches(self: Feed, step: int) -> list[Batch]:
        time.sleep(seconds)
        return quick(self, step)

    monkeypatch.setattr(Feed, "batches", batches)
