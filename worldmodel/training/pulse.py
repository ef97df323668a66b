"""Whether a run makes progress: the loop beats, a thread beside it notices where it stopped."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field

from worldmodel.errors import UserError

VARIABLE = "WORLDMODEL_STALL_MINUTES"
"""Minutes without any progress after which a run ends itself; 0: never."""
DEFAULT_MINUTES = 20.0
START = 3.0
"""Before the first step so many times longer: frames are fetched, kernels compiled."""
SLOWEST = 20.0
"""Never sooner than so many times the slowest step so far."""


def read_limit() -> float | None:
    """Seconds without progress that end a run; None: any number may pass. UserError where the setting is no number."""
    text = os.environ.get(VARIABLE, "").strip()
    try:
        minutes = float(text) if text else DEFAULT_MINUTES
    except ValueError:
        raise UserError(f"{VARIABLE}: found {text!r}, expected a number of minutes (0: never)") from None
    return 60 * minutes if minutes > 0 else None


@dataclass(kw_only=True)
class Pulse:
    """Beats with every step and every batch of a validation."""

    limit: float | None = field(default_factory=read_limit)
    """Seconds without progress that are too many."""
    _last: float = field(default_factory=lambda: time.monotonic())
    _longest: float = 0.0
    _doing: str = "start"

    def beat(self, doing: str = "training") -> None:
        """Something was done; `doing`: of what it was a part."""
        now = time.monotonic()
        if doing == self._doing:
            self._longest = max(self._longest, now - self._last)
        self._last, self._doing = now, doing

    def find_stall(self) -> str | None:
        """Why the run is to be ended as one that stands still; None: it moves."""
        silent = time.monotonic() - self._last
        if self.limit is None:
            return None
        patience = START * self.limit if self._doing == "start" else max(self.limit, SLOWEST * self._longest)
        if silent <= patience:
            return None
        return (
            f"no progress for {silent / 60:.3g} minutes (last: {self._doing}): the process stands still, or waits for "
            f"another that is gone; {VARIABLE} says how long it may"
        )


def describe_threads() -> str:
    """What every thread of this process is doing, as tracebacks."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"thread {names.get(number, number)}:\n{''.join(traceback.format_stack(frame))}"
        for number, frame in sys._current_frames().items()
        if number != threading.get_ident()
    )
