"""Loss spikes: a step whose loss is far above what it was before, noted in the run's record."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field

FACTOR = 3.0
"""A spike's loss is more than so many times the median of the intervals before."""
NEEDED = 5
"""Intervals that must lie behind before anything counts as a spike: a loss falls fast at first."""
WINDOW = 50
"""Intervals that the median is of."""
MOST = 20
"""Notes of one attempt; a loss that spikes more often has been told."""


@dataclass(kw_only=True)
class SpikeWatch:
    """Remembers the losses of the last intervals."""

    _losses: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _told: int = 0

    def judge(self, loss: float, peak: float, step: int) -> str | None:
        """What is to be noted of an interval, if anything.

        Args:
            loss: the interval's mean loss.
            peak: the largest loss of one of its steps.
            step: that step, from 1.
        """
        usual = statistics.median(self._losses) if len(self._losses) >= NEEDED else None
        self._losses.append(loss)
        if usual is None or peak <= FACTOR * usual or self._told >= MOST:
            return None
        self._told += 1
        last = "; further spikes are not noted" if self._told == MOST else ""
        return f"loss spike: {peak:.4g} at step {step}, {peak / usual:.1f} times the median before ({usual:.4g}){last}"
