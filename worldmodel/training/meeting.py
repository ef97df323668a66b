"""Progress and early ends of work that takes each worker a different time, such as validation."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from worldmodel.progress import Tell, say_nothing
from worldmodel.training.workers import Workers

SECONDS = 1.0
"""Time between two meetings."""


class StopRequest(Exception):
    """Reason for ending the current work early."""


class Meeting:
    """Lets all workers stop together.

    Workers meet in a collective about once a second. A worker that has finished keeps meeting until all have finished,
    so every worker takes part in the same number of collectives, however unequal their work is.
    """

    def __init__(self, workers: Workers, stop_reason: Callable[[], str | None], tell: Tell = say_nothing) -> None:
        """`stop_reason`: called once per meeting; a reason of any worker stops all. `tell`: receives the progress."""
        self._workers, self._stop_reason, self._tell = workers, stop_reason, tell
        self._last = time.monotonic()

    def tell(self, doing: str, done: int, whole: int) -> None:
        """Report progress of this worker.

        Raises:
            StopRequest: a worker has a reason to stop. All workers raise it.
        """
        self._tell(doing, done, whole)
        if time.monotonic() - self._last >= SECONDS:
            self._meet(is_busy=True)

    def end(self) -> None:
        """Wait until all workers have finished. Raises StopRequest as `tell` does."""
        while self._meet(is_busy=False):
            pass

    def _meet(self, *, is_busy: bool) -> bool:
        """Return True if any worker is still busy."""
        reason = self._stop_reason()
        mine = torch.tensor([is_busy, reason is not None], dtype=torch.int64, device=self._workers.device)
        busy, stopping = self._workers.sum(mine).tolist()
        self._last = time.monotonic()
        if stopping:
            raise StopRequest(reason or "another worker was asked to stop")
        return bool(busy)
