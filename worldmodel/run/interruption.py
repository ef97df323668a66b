"""Preemption notices in a worker, and the record of each interruption."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from worldmodel.run.pause import NOTICE, is_pause
from worldmodel.run.record import Interruption, RunRecord

LEAVE_SECONDS = 1.0
"""Time to send the last log lines and for Ray Train to register the notice, in seconds."""


@dataclass(kw_only=True)
class Notices:
    """Preemption notices, as one worker of several receives them."""

    rank: int
    is_watched: bool
    """False for a run with one worker, which Ray Train does not watch."""
    _lost: list[int] = field(default_factory=list)
    """Ranks on machines with a notice."""

    def find(self) -> str | None:
        """Reason to pause, or None. Collective: all workers must call it, and get the same answer."""
        import ray.train

        found = ray.train.get_preemption_info() if self.is_watched else None
        if found is None:
            return None
        self._lost = found.preempted_ranks
        return f"{NOTICE}: that of worker {', '.join(map(str, self._lost))}"

    def leave(self) -> None:
        """Exit after a notice. Workers on preempted machines exit the process, which Ray counts as a preemption."""
        if not self._lost:
            return
        time.sleep(LEAVE_SECONDS)
        if self.rank in self._lost:
            os._exit(0)


def find_interruption(older: RunRecord, step: int, workers: int) -> Interruption:
    """The interruption before a restart.

    Args:
        older: the run's record before the restart.
        step: step of the checkpoint that was restored.
        workers: number of workers now.
    """
    import ray

    alive = {node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    gone = [host for host in dict.fromkeys(older.hosts) if host not in alive]
    reason = older.reason if is_pause(older.reason) else ""
    reason = reason or (f"lost {', '.join(gone)}" if gone else older.reason or "the process of a worker was lost")
    return Interruption(
        at=older.updated, reason=reason, step=older.step, resumed_step=step, workers=workers,
        seconds=round((datetime.now(UTC) - older.updated).total_seconds(), 1),
    )  # fmt: skip


def describe_interruption(found: Interruption) -> str:
    """A line for people."""
    lost = max(0, found.step - found.resumed_step)
    about = "" if is_pause(found.reason) else "at least "
    return (
        f"resumed automatically after {found.seconds:.0f} s with {found.workers} workers, "
        f"from step {found.resumed_step} ({about}{lost} steps lost): {found.reason}"
    )
