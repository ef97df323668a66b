"""Tiny models on tiny games, trained in this process without Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.games_on_disk import as_file, encode_here, name_of, toy_columns, write_folder
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import override, to_yaml
from worldmodel.schema import PLAYERS
from worldmodel.storage import Location
from worldmodel.training.checkpoint import Checkpoint, save_checkpoint
from worldmodel.training.data import Dataset, open_dataset
from worldmodel.training.interval import Interval
from worldmodel.training.job import Job, make_trainer
from worldmodel.training.loop import Hooks, Trainer
from worldmodel.training.workers import Workers

CPU = torch.device("cpu")
TINY: dict[str, Any] = {
    "model.d_model": 32, "model.d_state": 8, "model.headdim": 16, "model.n_layers": 1, "model.chunk_size": 8,
    "model.context_len": 4, "model.hidden_dim": 32, "model.trunk_dim": 16, "model.dropout": 0.0,
    "training.sequence_length": 8, "training.batch_size": 6, "training.num_epochs": 2, "training.amp": False,
    "training.device": "cpu", "training.threads": 1, "training.log_interval": 1, "training.lr": 3e-3,
    "data.split": "first", "training.train_split": 0.75, "training.test_split": 0.0, "tracking.wandb": "disabled",
}  # fmt: skip


def configure(changes: Mapping[str, Any] | None = None, **more: Any) -> ExperimentConfig:
    """A tiny experiment with some dotted keys set."""
    return override(ExperimentConfig(), {**TINY, **(changes or {}), **more})


def write_blocks(folder: Path, count: int = 8, frames: int = 40) -> Path:
    """Encoded games of 40 frames and more, every second one without hitlag."""
    files = []
    for seed in range(count):
        columns = toy_columns(seed, frames + seed)
        if seed % 2:
            for player in range(PLAYERS):
                columns[f"p{player}", "hitlag"] = np.zeros_like(columns[f"p{player}", "hitlag"])
        files.append(as_file(columns))
    known = [{"game_end_method": 2 + seed % 3, "played_on": "toy"} for seed in range(count)]
    ends = dict(zip(map(name_of, files), known, strict=True))
    write_folder(folder / "games", {name_of(content): content for content in files}, ends)
    encode_here(folder / "games", folder / "blocks")
    return folder / "blocks"


def begin(config: ExperimentConfig, blocks: Path, resume_from: Path | None = None) -> Trainer:
    """The trainer of one worker, fresh or from the newest checkpoint of a run folder."""
    job = Job(
        config=to_yaml(config), run=str(resume_from or "unused"), blocks=str(blocks), workers=1,
        resume=resume_from is not None, init="",
    )  # fmt: skip
    return make_trainer(job, config, Workers(device=CPU))[0]


def open_data(config: ExperimentConfig, blocks: Path) -> Dataset:
    """The blocks under the experiment's filters and split."""
    return open_dataset(str(blocks), config)


@dataclass(kw_only=True)
class Log:
    """All that a run tells, by step; the part that depends on the clock left out."""

    folder: Path | None = None
    """Run folder for checkpoints; None: they are not saved."""
    stop_at: int | None = None
    """Step before which it is to stop."""
    stop_at_sign: int | None = None
    """Sign of progress of a validation, counted over all of them, after which it is to stop."""
    signs: int = 0
    intervals: dict[int, dict[str, float]] = field(default_factory=dict)
    epochs: dict[int, dict[str, float]] = field(default_factory=dict)
    saved: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)
    """Step and tags of every checkpoint."""

    def run(self, trainer: Trainer) -> str | None:
        """Train on, listening."""
        self.trainer = trainer
        return trainer.run(
            Hooks(
                on_interval=self._note_interval,
                on_epoch=self._note_epoch,
                on_checkpoint=self._save,
                on_progress=self._count_sign,
                stop_reason=self._find_reason,
            )
        )

    def _find_reason(self) -> str | None:
        by_step = self.stop_at is not None and self.trainer.step >= self.stop_at
        return "asked" if by_step or (self.stop_at_sign is not None and self.signs >= self.stop_at_sign) else None

    def _count_sign(self, doing: str, done: int, whole: int) -> None:
        assert done <= whole
        self.signs += 1

    def _note_interval(self, interval: Interval, values: dict[str, float]) -> None:
        self.intervals[interval.step] = {n: v for n, v in values.items() if not n.startswith("speed/")}

    def _note_epoch(self, values: dict[str, float], checkpoint: Checkpoint) -> None:
        self.epochs[checkpoint.state.step] = values
        self._save(checkpoint)

    def _save(self, checkpoint: Checkpoint) -> None:
        self.saved.append((checkpoint.state.step, checkpoint.state.tags))
        if self.folder:
            save_checkpoint(Location.of(self.folder), checkpoint)


def take_state(trainer: Trainer) -> dict[str, Tensor]:
    """Weights and optimizer, by name."""
    found = trainer.checkpoint()
    return {**{f"weights/{n}": v for n, v in found.weights.items()}, **dict(found.optimizer)}


def are_equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether two sets of tensors are the same, bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)
