"""An interval: the steps between two lines of metrics, and what is measured of them without waiting for the device."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from worldmodel.training.stopwatch import Stopwatch
from worldmodel.training.workers import Workers

NEVER = 2**62


@dataclass(frozen=True, kw_only=True)
class Interval:
    """What happened since the line before."""

    step: int
    """Optimizer steps done."""
    total_steps: int
    """Optimizer steps of the whole run."""
    epoch: int
    """The epoch under way, counted from 1."""
    loss: float
    """Mean training loss."""
    peak_loss: float = 0.0
    """Largest loss of a step."""
    peak_step: int = 0
    """That step, counted from 1."""
    learning_rate: float
    """Learning rate of the last step."""
    step_seconds: float
    """Mean seconds of a step."""
    targets_per_second: float
    """Predicted frames per second."""
    data_share: float
    """Share (0 to 1) of the time that was spent waiting for data."""
    host_share: float | None = None
    """Share that the host worked; None: host and device are one, as on a CPU. See `stopwatch.py`."""
    device_share: float | None = None
    """Share that the device worked; it overlaps with the host's."""
    mfu: float | None = None
    """Share of the GPUs' peak that the model's operations are, see `worldmodel.run.mfu`; None: unknown, or a CPU."""


@dataclass(kw_only=True)
class Sums:
    """What is measured of the steps of an interval, on the device: only `read` waits for it."""

    device: torch.device
    names: tuple[str, ...] = ()
    """What the tensors below hold a number of: "loss", the loss terms, "norm" (of the gradient)."""
    totals: Tensor = field(init=False)
    """Sums over the steps."""
    first_bad: Tensor = field(init=False)
    """The first step (from 0) in which each was no number; `NEVER` where it always was one."""
    peaks: Tensor = field(init=False)
    """The largest value of a step."""
    peak_steps: Tensor = field(init=False)
    """That step, from 0."""
    steps: int = 0
    targets: int = 0
    watch: Stopwatch = field(init=False)

    def __post_init__(self) -> None:
        self.totals = self.peaks = torch.zeros((), device=self.device)
        self.first_bad = self.peak_steps = torch.full((), NEVER, device=self.device)
        self.watch = Stopwatch(self.device)

    def add(self, step: int, values: dict[str, Tensor], targets: int, *, can_peak: bool = True) -> None:
        """Take in step `step` (from 0).

        Args:
            step: the step.
            values: its scalars on the device, "loss" first, the same names in every step.
            targets: how many frames it predicted, over all workers.
            can_peak: whether its loss may count as the interval's largest.
        """
        self.names, found = tuple(values), torch.stack(list(values.values()))
        self.totals = self.totals + found
        self.first_bad = torch.where(torch.isfinite(found), self.first_bad, self.first_bad.clamp(max=step))
        if not can_peak:
            found = torch.zeros_like(found)
        self.peak_steps = torch.where(found > self.peaks, step, self.peak_steps)
        self.peaks = torch.maximum(self.peaks, found)
        self.steps += 1
        self.targets += targets

    def average(self, workers: Workers) -> dict[str, float]:
        """Means over the steps and workers, by name. Waits for the device; all workers call it together."""
        means = workers.mean(self.totals.double()) / self.steps
        return dict(zip(self.names, means.tolist(), strict=True))

    def find_first_bad(self, workers: Workers) -> tuple[int, list[str]]:
        """The first step in which something was no number, and what it was."""
        first = dict(zip(self.names, workers.least(self.first_bad), strict=True))
        step = min(first.values())
        return step, [name for name, bad in first.items() if bad == step]
