"""The learning rate as a pure function of the step, so that a resumed run trains as an uninterrupted one does."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from worldmodel.experiment.config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Everything, besides the step, that the learning rate depends on."""

    kind: Literal["cosine", "epoch_cosine", "constant"]
    """`cosine` falls at every step, `epoch_cosine` once an epoch (as published), `constant` never."""
    peak: float
    """The highest learning rate."""
    total_steps: int
    """Optimizer steps of the whole run."""
    steps_per_epoch: int
    """Optimizer steps of one epoch."""
    num_epochs: int
    """Epochs of the whole run, even where `total_steps` ends it early."""
    warmup_pct: float = 0.0
    """Share (0 to 1) of `total_steps` in which the rate rises linearly; `cosine` only."""
    min_ratio: float = 0.0
    """Where `cosine` ends, as a share of `peak`."""

    @classmethod
    def of(cls, config: TrainingConfig, steps_per_epoch: int) -> Schedule:
        """The schedule of a run whose epoch has that many steps."""
        whole = config.num_epochs * steps_per_epoch
        return cls(
            kind=config.schedule,
            peak=config.lr,
            total_steps=min(whole, config.max_steps or whole),
            steps_per_epoch=steps_per_epoch,
            num_epochs=config.num_epochs,
            warmup_pct=config.warmup_pct,
        )

    @property
    def warmup_steps(self) -> int:
        """Steps in which the rate rises."""
        return round(self.warmup_pct * self.total_steps) if self.kind == "cosine" else 0


def compute_learning_rate(schedule: Schedule, step: int) -> float:
    """The learning rate of optimizer step `step`, counted from 0.

    `cosine` (Loshchilov & Hutter, https://arxiv.org/abs/1608.03983, without restarts) first rises linearly to `peak`,
    which it reaches at the last warm-up step. `epoch_cosine` is torch's CosineAnnealingLR with T_max `num_epochs`,
    stepped after each epoch. Past the end both keep their last value.
    """
    if schedule.kind == "constant":
        return schedule.peak
    if schedule.kind == "epoch_cosine":
        return schedule.peak * _fall(step // schedule.steps_per_epoch, schedule.num_epochs)
    if step < schedule.warmup_steps:
        return schedule.peak * (step + 1) / schedule.warmup_steps
    share = _fall(step - schedule.warmup_steps, schedule.total_steps - schedule.warmup_steps)
    return schedule.peak * (schedule.min_ratio + (1 - schedule.min_ratio) * share)


def _fall(done: int, whole: int) -> float:
    """Half a cosine, from 1 at `done` = 0 to 0 at `done` >= `whole`."""
    return (1 + math.cos(math.pi * min(done, whole) / max(whole, 1))) / 2
