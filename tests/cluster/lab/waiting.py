"""Waiting with an end, and with what was seen when it was reached."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")
LOOK_SECONDS = 0.25


def wait_for(look: Callable[[], T], seconds: float, what: str, tell: Callable[[], str] = str) -> T:
    """What `look` returns once it is true; fails the test after `seconds`, with what `tell` says of the state."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {seconds:g} s\n{tell()}")
        time.sleep(LOOK_SECONDS)
    return found


class Clock:
    """Prints what happened when, in seconds since the test began."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self.moments: dict[str, float] = {}

    def note(self, what: str) -> float:
        """Print a moment and keep it by its name."""
        self.moments[what] = time.monotonic() - self._start
        print(f"{self.moments[what]:7.1f} s  {what}", flush=True)
        return self.moments[what]
