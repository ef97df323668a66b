"""A run is a folder that always says how it ended.

STORAGE/NAME/config.yaml     the experiment, complete
             run.json        `RunRecord`: state, reason, traceback, where and on what
             log.txt         see `worldmodel.run.log_file`
             metrics.jsonl   see `worldmodel.run.tracking`
             checkpoints/    see `worldmodel.training.checkpoint`
             card.md, .html  see `worldmodel.run.card`
             evaluation.json see `worldmodel.rollout.evaluation`
             STOP            asks the run to stop; its text is the reason; see `worldmodel.run.stop_request`
             lock.json       see `worldmodel.run.lock`
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from worldmodel.errors import UserError
from worldmodel.machine.device_state import describe_state
from worldmodel.machine.gpu import Gpu
from worldmodel.machine.process import read_uptime
from worldmodel.object_store import StorageError
from worldmodel.redaction import hide_secrets
from worldmodel.run.last_words import keep_words
from worldmodel.run.lock import find_loss
from worldmodel.run.pause import find_notice, is_consequence, is_pause
from worldmodel.run.record import RunRecord, State
from worldmodel.run.stop_request import describe_signal, hear_signals, read_stop
from worldmodel.storage import Location
from worldmodel.training.pulse import Pulse, describe_threads

RECORD, CONFIG, EVALUATION = "run.json", "config.yaml", "evaluation.json"
LAST_LINES = 50
"""Lines of the log that the record of an ended run keeps."""
HEARTBEAT_SECONDS = 10.0
"""Longest time between two writes of a live run's record."""
FLUSH_SECONDS = 3.0
"""Shortest time between two writes of a live run's record."""
POLL_SECONDS = {"file": 1.0}
"""Time between two looks for the stop file, by scheme."""
REMOTE_POLL_SECONDS = 1.0
"""Elsewhere: a job that is stopped has three seconds left."""
CLOSE_SECONDS = 30.0
"""Longest wait for a write that is under way when the run ends."""
STALLED, STALL = 75, "StalledError"
"""Exit status of a process that ended itself because its run stood still, and how its reason begins."""


class TakenOverError(RuntimeError):
    """Another process writes into the run's folder: this one must write nothing more."""


class Run:
    """One run's folder, as its own process sees it. A thread beside the training does all reading and writing."""

    def __init__(self, location: Location, record: RunRecord) -> None:
        self.location = location
        self.lines: deque[str] = deque(maxlen=LAST_LINES)
        """The last lines of the log."""
        self._record = record
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._stop_reason: str | None = None
        self._signals: list[int] = []
        self._is_dirty = False
        self._closing = threading.Event()
        self._since = time.monotonic()
        self._seconds_before = record.seconds.total
        self._budget = record.budget
        self._pulse: Pulse | None = None
        self._gpu: Gpu | None = None
        self._loss = ""
        self.may_go_on = False
        """Whether Ray Train starts the workers again after a loss or a pause: that is no end then."""

    @property
    def record(self) -> RunRecord:
        """A copy of the record as it stands."""
        with self._lock:
            return self._record.model_copy(deep=True)

    @property
    def elapsed(self) -> float:
        """Seconds of this attempt so far."""
        return time.monotonic() - self._since

    def update(self, **changes: Any) -> None:
        """Sets fields of the record; they are written within seconds."""
        with self._lock:
            self._set(changes)

    def note(self, text: str) -> None:
        """Records something that went wrong without stopping the run; a repeated note is kept once."""
        with self._lock:
            if text not in self._record.notes:
                self._set({"notes": [*self._record.notes, text]})
                self.lines.append(text)

    def note_step(self, step: int, **changes: Any) -> None:
        """Records progress: `step` optimizer steps are done. The first call makes the run "running"."""
        with self._lock:
            begun = {"state": State.RUNNING} if self._record.state is State.CREATED else {}
            self._set({**begun, **changes, "step": step, "updated": datetime.now(UTC)})

    def pause(self, reason: str) -> None:
        """Records why its workers end for now, where not `should_stop` said so."""
        self._stop_reason = self._stop_reason or reason

    def watch(self, pulse: Pulse, gpu: Gpu | None = None) -> None:
        """From now on the process is ended where `pulse` says that the run stands still; `gpu`: what it computes on."""
        self._pulse, self._gpu = pulse, gpu

    def should_stop(self) -> str | None:
        """Why the run should save itself and end now; None: go on. Costs nothing: ask once per step.

        Raises:
            TakenOverError: nothing may be saved, for another process goes on with the run.
        """
        if self._loss:
            raise TakenOverError(self._loss)
        return self._find_reason()

    def _find_reason(self) -> str | None:
        if self._signals and self._stop_reason is None:
            self._stop_reason = describe_signal(self._signals[0])
        return self._stop_reason

    def write(self) -> None:
        """Writes `run.json`, atomically.

        Raises:
            StorageError: the folder cannot be written.
        """
        with self._writing:
            if self._loss:
                return
            (self.location / RECORD).write_text(self._render())

    @contextlib.contextmanager
    def recording(self) -> Iterator[Run]:
        """While it lasts the run gives signs of life and hears requests to stop; then it records how it ended.

        What ended it (an error, Ctrl-C, an exit) goes on to the caller. Without an error the run is "finished", or
        "stopped" where `should_stop` had a reason before the last step.
        """
        handler = _LineKeeper(self.lines)
        logging.getLogger().addHandler(handler)
        restore = hear_signals(self._signals.append)
        self._since = time.monotonic()
        self._closing.clear()
        self._forget_end()
        thread = threading.Thread(target=self._keep_alive, name="run record", daemon=True)
        self.write()
        thread.start()
        try:
            yield self
        except BaseException as error:
            state, reason = judge_error(error, self._find_reason())
            self._close(thread, State.CREATED if self.may_go_on and is_consequence(error) else state, reason, error)
            raise
        else:
            self._close(thread, *self._judge_return(), None)
        finally:
            logging.getLogger().removeHandler(handler)
            restore()

    def _render(self) -> str:
        with self._lock:
            total = self._seconds_before + self.elapsed
            seconds = self._record.seconds.model_copy(update={"total": round(total, 3)})
            self._set({"heartbeat": datetime.now(UTC), "heartbeat_uptime": read_uptime(), "seconds": seconds})
            self._is_dirty = False
            return hide_secrets(self._record.model_dump_json(indent=1)) + "\n"

    def _set(self, changes: dict[str, Any]) -> None:
        for name, value in changes.items():
            setattr(self._record, name, value)
        self._is_dirty = True

    def _forget_end(self) -> None:
        """A run that is trained again, by a restarted worker or a resume, has not ended."""
        state = self._record.state if self._record.state is State.RUNNING else State.CREATED
        self.update(
            state=state, reason="", traceback="", last_lines=[], ended=None, rank=None, ended_on="", ended_by=""
        )

    def _judge_return(self) -> tuple[State, str]:
        record, reason = self.record, self._find_reason()
        has_all_steps = record.total_steps is not None and record.step >= record.total_steps
        is_complete = has_all_steps and not record.validation_due
        if self.may_go_on and is_pause(reason) and not is_complete:
            return State.CREATED, reason or ""
        return (State.STOPPED, reason) if reason and not is_complete else (State.FINISHED, "")

    def _close(self, thread: threading.Thread, state: State, reason: str, error: BaseException | None) -> None:
        self._closing.set()
        thread.join(CLOSE_SECONDS)
        trace = "".join(traceback.format_exception(error)) if error else ""
        self._set_end(state, reason, trace)
        try:
            self.write()
        except StorageError as failure:
            kept = keep_words(self.location, self._render())
            where = f"; it is kept in {kept}, and told by: worldmodel show {self.location}" if kept else ""
            if error is None:
                raise StorageError(f"{failure}{where}") from failure
            error.add_note(f"and the run's record could not be written: {failure}{where}")

    def _set_end(self, state: State, reason: str, trace: str) -> None:
        facts: dict[str, Any] = {"device_state": self._describe_machine(), "ended_on": socket.gethostname()}
        if state is State.FAILED:
            facts["rank"] = 0  # only the first worker has a record to write
        self.update(
            state=state, reason=reason, traceback=trace, last_lines=list(self.lines), ended=datetime.now(UTC), **facts
        )

    def _describe_machine(self) -> dict[str, Any]:
        return describe_state(self._gpu, self.location.local_path())

    def _keep_alive(self) -> None:
        written = polled = time.monotonic()
        poll_every = POLL_SECONDS.get(self.location.scheme, REMOTE_POLL_SECONDS)
        is_told = False
        while not self._closing.wait(0.25):
            now = time.monotonic()
            self._look_at_budget()
            self._look_at_progress()
            if now - polled >= poll_every:
                polled = now
                self._look_for_stop_file()
            is_stopping = self._find_reason() is not None and not is_told
            if is_stopping or now - written >= (FLUSH_SECONDS if self._is_dirty else HEARTBEAT_SECONDS):
                # A killing may follow a request to stop within seconds, so the reason is written at once.
                is_told |= is_stopping
                written = now
                self._write_alive(is_stopping)

    def _write_alive(self, is_stopping: bool) -> None:
        changes = {"reason": self._stop_reason} if is_stopping else {}
        self.update(device_state=self._describe_machine(), **changes)
        try:
            self._loss = (find_loss(self.location, self._record.lock) or "") if self._record.lock else ""
            self.write()
        except StorageError as error:
            self.note(f"the record could not be written for a while: {error}")

    def _look_for_stop_file(self) -> None:
        if not self.may_go_on:  # Ray Train tells its workers itself
            self._stop_reason = self._stop_reason or find_notice()
        with contextlib.suppress(StorageError):
            self._stop_reason = self._stop_reason or read_stop(self.location)

    def _look_at_progress(self) -> None:
        """A thread that stands still in a library cannot be interrupted, so the whole process ends, without a word of
        its own: the record says why."""
        reason = self._pulse.find_stall() if self._pulse else None
        if reason is None or self._closing.is_set():
            return
        self._set_end(State.FAILED, f"{STALL}: {reason}", describe_threads())
        with contextlib.suppress(StorageError):
            self.write()
        with contextlib.suppress(OSError):  # nobody reads it any more
            os.write(2, f"{self.location}: {reason}\n".encode())
            sys.stdout.flush()
        os._exit(STALLED)

    def _look_at_budget(self) -> None:
        if self._budget is None or self._stop_reason is not None:
            return
        seconds = self._seconds_before + self.elapsed
        with self._lock:
            if reason := self._budget.find_end(seconds, self._record.price(seconds)):
                needed = self._record.seconds_promised or 0.0
                larger = self._budget.propose(needed, self._record.price(needed))
                self._set({"resume_command": larger.apply_to(self._record.resume_command)})
                self._stop_reason = reason


class _LineKeeper(logging.Handler):
    def __init__(self, lines: deque[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(f"{record.levelname} {record.name}: {record.getMessage()}")


def judge_error(error: BaseException, stop_reason: str | None) -> tuple[State, str]:
    """What an error says about the end of a run."""
    if isinstance(error, KeyboardInterrupt):
        return State.STOPPED, "interrupted (Ctrl-C)"
    if isinstance(error, SystemExit):
        if stop_reason or error.code in (None, 0):
            return State.STOPPED, stop_reason or "the program exited before its end"
        return State.FAILED, f"the program exited with status {error.code}"
    message = " ".join(str(error).split())[:500]
    reason = message if isinstance(error, UserError) else f"{type(error).__name__}: {message}".rstrip(": ")
    return State.FAILED, f"{reason} (while stopping: {stop_reason})" if stop_reason else reason
