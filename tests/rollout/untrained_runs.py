"""Run folders with the checkpoint of a model that has learned nothing, on toy games."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.games_on_disk import encode_toy_games
from tests.training.tiny_runs import configure
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.model.build import build_model
from worldmodel.run.run_folder import start_run
from worldmodel.storage import Location
from worldmodel.training.checkpoint import Checkpoint, CheckpointState, save_checkpoint
from worldmodel.training.data import open_dataset

CHECKPOINT = "checkpoints/step-00000003"


def write_games(folder: Path, count: int = 4) -> Path:
    """A folder with toy games (`toy`) and their blocks."""
    encode_toy_games(folder, count, seed=3)
    return folder


def make_run(games: Path, storage: Path, changes: dict[str, Any]) -> tuple[Location, ExperimentConfig]:
    """A run folder with the checkpoint of an untrained model."""
    config = replace(configure(changes), name="untrained")
    dataset = open_dataset(str(games / "blocks"), config)
    run = start_run(Location.of(storage), config, blocks=str(games / "blocks"), data_fingerprint=dataset.fingerprint)
    torch.manual_seed(config.training.seed)
    model = build_model(config.model, config.encoding.layout)
    save_checkpoint(run.location, Checkpoint.of(model, torch.optim.AdamW(model.parameters()), CheckpointState(step=3)))
    return run.location, config
