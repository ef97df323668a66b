"""The end of a run of several workers that the first could not tell itself: what is gone, and who writes it down."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from worldmodel.errors import UserError
from worldmodel.machine.device_state import find_memory_kill
from worldmodel.object_store import StorageError
from worldmodel.run.head_watch import HeadLostError
from worldmodel.run.pause import CHANNELS, is_consequence
from worldmodel.run.record import RunRecord, State
from worldmodel.run.run import STALL, Run
from worldmodel.run.run_folder import LIVE, read_record, read_written
from worldmodel.storage import Location
from worldmodel.training.checkpoint_list import find_sound

ASK_SECONDS = 5.0
"""Time between two looks at the first worker's signs of life."""
WAIT = "WORLDMODEL_WAIT_MINUTES"
"""Environment variable: how long Ray Train may try to start lost workers again, which wait for machines."""
WAIT_MINUTES = 30.0
LOSSES = ("WorkerHealthCheckFailedError", "WorkerHealthCheckTimeoutError", "ActorDiedError", "RayActorError")
"""What Ray calls a worker whose process is gone."""


class WorkerLostError(RuntimeError):
    """The process of a worker is gone."""

    rank: int | None = None
    """Which one; None: several, or unknown."""


@dataclass(kw_only=True)
class Silence:
    """How long the first worker has given no sign of life, by this machine's clock alone."""

    minutes: float = field(default_factory=lambda: read_number(WAIT, WAIT_MINUTES))
    _heartbeat: object = None
    _since: float = field(default_factory=time.monotonic)
    _asked: float = 0.0

    def look(self, run: Location) -> None:
        """Read the run's record now and then. WorkerLostError where nobody has spoken for longer than people wait."""
        now = time.monotonic()
        if now - self._asked < ASK_SECONDS:
            return
        self._asked = now
        try:
            record = read_written(run)
        except (StorageError, UserError):  # a store that does not answer says nothing of the worker
            self._since = now
            return
        if record.heartbeat != self._heartbeat or record.pid == os.getpid() or record.state not in LIVE:
            self._heartbeat, self._since = record.heartbeat, now
        if now - self._since > 60 * self.minutes:
            error = WorkerLostError(
                f"no sign of life from worker 0, last on {record.hosts[0]}, for {self.minutes:g} minutes: its machine "
                f"is gone, and no other came ({WAIT} says how long to wait; `worldmodel train --workers MIN..MAX` "
                "needs fewer)"
            )
            error.rank = 0
            raise error


def read_number(name: str, default: float) -> float:
    """A number above 0 from an environment variable. UserError where it is none."""
    text = os.environ.get(name) or str(default)
    try:
        if (found := float(text)) > 0:
            return found
    except ValueError:
        pass
    raise UserError(f"{name}: found {text!r}, expected a number above 0")


def find_cause(error: BaseException) -> BaseException:
    """The worker's own error inside Ray's; where a process is gone, that, and not how the others met it."""
    error = getattr(error, "controller_failure", error)  # what `recovery` raised
    failures = getattr(error, "worker_failures", None)
    if not isinstance(failures, dict) or not failures:
        return error
    found = {rank: _unwrap(failure) for rank, failure in sorted(failures.items())}
    lost: list[int] = [rank for rank, failure in found.items() if type(failure).__name__ in LOSSES]
    if not lost:
        return min(found.values(), key=is_consequence)
    names = ", ".join(f"worker {rank}" for rank in lost)
    error = WorkerLostError(f"the process of {names} is gone: killed, out of memory, or its machine lost")
    error.rank = lost[0] if len(lost) == 1 else None
    return error


def _unwrap(error: BaseException) -> BaseException:
    cause = getattr(error, "cause", None)
    while isinstance(cause, BaseException):
        error, cause = cause, getattr(cause, "cause", None)
    return error


def _met_a_loss(record: RunRecord, cause: BaseException) -> bool:
    """Whether the first worker, which wrote how it ended, may only have met the loss of another, or of Ray: not where
    it stood still, or is itself the one that is gone."""
    if record.state is not State.FAILED or record.reason.startswith(STALL):
        return False
    if isinstance(cause, WorkerLostError):
        return cause.rank != 0
    return isinstance(cause, HeadLostError) and any(name in record.reason for name in CHANNELS)


def close_record(location: Location, error: BaseException, last_lines: Iterable[str] = ()) -> None:
    """Write how a run ended whose own process could not, or met only the loss of another."""
    try:
        record = read_record(location)
    except StorageError as failure:
        error.add_note(f"and the run's record could not be read: {failure}")
        return
    cause = find_cause(error)
    is_known = record.state not in (*LIVE, State.LOST)
    if is_known and not _met_a_loss(record, cause):
        return
    is_interrupt = isinstance(error, KeyboardInterrupt | SystemExit)
    rank = getattr(cause, "rank", None)
    sound, hint = None, ""
    with suppress(StorageError):
        sound = find_sound(location)
    if isinstance(cause, WorkerLostError) and record.hosts[0] == socket.gethostname():
        hint = find_memory_kill(record.device_state)
    reason = f"{type(cause).__name__}: {cause}" + (f" ({hint})" if hint else "")
    run = Run(location, record)
    run.update(
        rank=rank,
        ended_on=record.hosts[rank] if rank is not None and rank < len(record.hosts) else "",
        ended_by=f"the run's driver on {socket.gethostname()}",
        checkpoint=f"{sound.parent.name}/{sound.name}" if sound else record.checkpoint,
        state=State.STOPPED if is_interrupt else State.FAILED,
        reason="interrupted before a checkpoint was saved" if is_interrupt else reason,
        traceback=record.traceback or "".join(traceback.format_exception(error)),
        last_lines=record.last_lines or list(last_lines),
        ended=record.ended or record.heartbeat,
    )
    try:
        run.write()
    except StorageError as failure:  # what is raised is what came first
        if not getattr(error, "__notes__", None):  # else the run has said so
            error.add_note(f"and the run's record could not be written: {failure}")
