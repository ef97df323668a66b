"""What workers hear of machines that go away, and what is recorded of a run that went on by itself."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from worldmodel.run.pause import NOTICE, is_pause
from worldmodel.run.record import Interruption, RunRecord

LEAVE_SECONDS = 1.0
"""Time for a worker's last lines to be sent, and for Ray Train to have heard of the notice."""


@dataclass(kw_only=True)
class Notices:
    """What one worker of several hears of machines that are about to be taken away."""

    rank: int
    is_watched: bool
    """Whether Ray Train watches: not where the run has one worker."""
    _lost: list[int] = field(default_factory=list)
    """Ranks whose machines have a notice."""

    def find(self) -> str | None:
        """Why the workers must go on elsewhere. Every worker must ask, and hears the same."""
        import ray.train

        found = ray.train.get_preemption_info() if self.is_watched else None
        if found is None:
            return None
        self._lost = found.preempted_ranks
        return f"{NOTICE}: that of worker {', '.join(map(str, self._lost))}"

    def leave(self) -> None:
        """After a notice: end. A worker that loses its machine ends its process, by which Ray knows why it ended."""
        if not self._lost:
            return
        time.sleep(LEAVE_SECONDS)
        if self.rank in self._lost:
            os._exit(0)


def find_interruption(older: RunRecord, step: int, workers: int) -> Interruption:
    """What happened to a run that has just gone on. `older`: its record before; `step`: from which it went on."""
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
    return (
        f"went on by itself after {found.seconds:.0f} s with {found.workers} workers, from step {found.resumed_step} "
        f"({lost} steps lost): {found.reason}"
    )
