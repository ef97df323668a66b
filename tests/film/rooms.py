"""An untrained run on tiny toy games, to film and to play in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.training.tiny_runs import configure, write_blocks
from worldmodel.model.build import build_model
from worldmodel.rollout.loading import load_model, open_games
from worldmodel.rollout.roller import Roller
from worldmodel.run.run_folder import start_run
from worldmodel.storage import Location
from worldmodel.training.checkpoint import Checkpoint, CheckpointState, save_checkpoint
from worldmodel.training.data import open_dataset

STEP = "checkpoints/step-00000003"


def make_run(folder: Path, *, has_checkpoint: bool = True, **changes: Any) -> Location:
    """A run folder with the checkpoint of an untrained model, and the blocks that it names."""
    torch.manual_seed(0)
    blocks = folder / "blocks" if (folder / "blocks").exists() else write_blocks(folder, frames=90)
    config = replace(configure(changes), name="untrained")
    dataset = open_dataset(str(blocks), config)
    run = start_run(
        Location.of(folder / "runs"), config, blocks=str(blocks), data_fingerprint=dataset.fingerprint
    )  # fmt: skip
    model = build_model(config.model, config.encoding.layout)
    state = CheckpointState(step=3)
    if has_checkpoint:
        save_checkpoint(run.location, Checkpoint.of(model, torch.optim.AdamW(model.parameters()), state))
    return run.location


def open_roller(run: Location) -> Roller:
    """The run's model, ready to roll."""
    loaded = load_model(run, run / STEP)
    return Roller(loaded, open_games(run, loaded.config)[0])
