"""Work of which each worker may have another amount, and which all of them leave together when one is to stop."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from worldmodel.training.workers import Workers

SECONDS = 0.5
"""Time between two meetings."""

Tell = Callable[[str, int, int], None]
"""Called again and again by work under way: what it is, how much is done, and how much there is."""


def say_nothing(doing: str, done: int, whole: int) -> None:
    """A `Tell` for which progress is of no interest."""


class StopRequest(Exception):
    """Why the work under way ends early."""


class Meeting:
    """Workers meet by time, so those that are done go on meeting until all are: each meets as often as the others."""

    def __init__(self, workers: Workers, stop_reason: Callable[[], str | None], tell: Tell = say_nothing) -> None:
        """`stop_reason`: asked at each meeting; one worker's is enough. `tell`: is told of this worker's work."""
        self._workers, self._stop_reason, self._tell = workers, stop_reason, tell
        self._last = time.monotonic()

    def tell(self, doing: str, done: int, whole: int) -> None:
        """A `Tell` for this worker's work.

        Raises:
            StopRequest: a worker is to stop; all raise it.
        """
        self._tell(doing, done, whole)
        if time.monotonic() - self._last >= SECONDS:
            self._meet(is_busy=True)

    def end(self) -> None:
        """Return when all workers are done. Raises as `tell`."""
        while self._meet(is_busy=False):
            pass

    def _meet(self, *, is_busy: bool) -> bool:
        reason = self._stop_reason()
        mine = torch.tensor([is_busy, reason is not None], dtype=torch.int64, device=self._workers.device)
        busy, stopping = self._workers.sum(mine).tolist()
        self._last = time.monotonic()
        if stopping:
            raise StopRequest(reason or "another worker was asked to stop")
        return bool(busy)
