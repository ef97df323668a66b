"""An interval: the steps between two lines of metrics, and what is measured of them without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from worldmodel.machine.fused import fused
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


class Sums:
    """What is measured of the steps of an interval, on the device: only reading it waits.

    Its tensors keep their places in memory, as a captured step needs; `reset` begins another interval.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        """`names`: what a step's values are: "loss", the loss terms, "norm" (of the gradient)."""
        self.names, self._device = tuple(names), device
        self.totals, self.peaks = (torch.zeros(len(names), device=device) for _ in range(2))
        self.first_bad, self.peak_steps = (torch.full((len(names),), NEVER, device=device) for _ in range(2))
        self.reset()

    def reset(self) -> None:
        """Forget all."""
        for values in (self.totals, self.peaks):
            values.zero_()
        for steps in (self.first_bad, self.peak_steps):
            steps.fill_(NEVER)
        self.steps = self.targets = 0
        self.watch = Stopwatch(self._device)

    def add(self, step: Int64[Tensor, ""], values: Float[Tensor, " value"], *, can_peak: bool = True) -> None:
        """Take in step `step` (from 0); all on the device.

        Args:
            step: the step.
            values: in the order of `names`.
            can_peak: whether its loss may count as the interval's largest.
        """
        totals, peaks, *steps = _take_in(
            self.totals, self.peaks, self.first_bad, self.peak_steps, step, values, can_peak
        )
        torch._foreach_copy_([self.totals, self.peaks], [totals, peaks])
        torch._foreach_copy_([self.first_bad, self.peak_steps], steps)

    def count(self, targets: int) -> None:
        """Count a step that predicts so many frames, over all workers."""
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


@fused
def _take_in(
    totals: Tensor, peaks: Tensor, first_bad: Tensor, peak_steps: Tensor, step: Tensor, values: Tensor, can_peak: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The sums with one step more."""
    bad = torch.where(torch.isfinite(values), first_bad, torch.minimum(first_bad, step))
    found = values if can_peak else torch.zeros_like(values)
    return totals + values, torch.maximum(peaks, found), bad, torch.where(found > peaks, step, peak_steps)
