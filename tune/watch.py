"""Watching over a grid while its trials run: its signs of life, requests to stop, its budget."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tune.record import GridRecord, write_grid
from tune.variants import Trial
from worldmodel.errors import UserError
from worldmodel.machine.process import read_uptime
from worldmodel.object_store import MissingError, StorageError
from worldmodel.run.record import RunRecord, State
from worldmodel.run.run import POLL_SECONDS, REMOTE_POLL_SECONDS, judge_error
from worldmodel.run.run_folder import LIVE, read_record
from worldmodel.run.stop_request import STOP, describe_signal, hear_signals, read_stop
from worldmodel.storage import Location

LOOK_SECONDS = 0.1
"""Time between two looks at the signals that came: a job that is stopped has three seconds left."""
OVER_SECONDS = 15.0
"""How long a grid that was asked to stop waits for Ray after its last trial has ended."""
HEARTBEAT_SECONDS = 10.0
"""Time between two writes of a live grid's record."""


@dataclass(kw_only=True)
class GridWatch:
    """Keeps `grid.json` true, and hands a request to stop on to every trial."""

    folder: Location
    trials: Sequence[Trial]
    record: GridRecord
    judge: Callable[[float, Sequence[RunRecord]], str | None] = lambda seconds, records: None
    """Why the grid must stop now, from its seconds over all attempts and the records of its runs: its budget."""
    hear: Callable[[Sequence[RunRecord]], None] = lambda records: None
    """Takes the records of its runs at every look."""
    find_loss: Callable[[], str] = lambda: ""
    """Why Ray is taken for gone; empty: it is there."""
    reason: str = ""
    """Why it stops; empty: it goes on."""
    loss: str = ""
    """What `find_loss` said: nobody asked for this end."""
    _signals: list[int] = field(default_factory=list)
    _closing: threading.Event = field(default_factory=threading.Event)
    _before: float = 0.0
    _since: float = field(default_factory=time.monotonic)
    _silent_since: float | None = None
    """Since when Ray is gone, or no trial runs although all were asked to stop."""

    @property
    def is_over(self) -> bool:
        """Whether the grid was asked to stop, and no trial has run for a while: what still waits for Ray waits in vain.

        Who stops a whole group of processes stops a Ray of the grid's own as well. A Ray that is lost may have left
        trials behind, which have as long to save themselves.
        """
        return self._silent_since is not None and time.monotonic() - self._silent_since > OVER_SECONDS

    @contextmanager
    def watching(self) -> Iterator[GridWatch]:
        """While it lasts: signs of life are given, signals, a stop file and the budget stop all trials.

        An error that ends it is the grid's end, and goes on to the caller.
        """
        self._before, self._since = self.record.seconds, time.monotonic()
        (self.folder / STOP).delete()
        self._write()
        restore = hear_signals(self._signals.append)
        thread = threading.Thread(target=self._watch, name="grid", daemon=True)
        thread.start()
        try:
            yield self
        except BaseException as error:
            with suppress(StorageError):  # what is raised is what came first
                self.close(*judge_error(error, self.reason))
            raise
        finally:
            self._closing.set()
            thread.join()
            restore()

    @property
    def seconds(self) -> float:
        """Wall clock of the grid, over all attempts."""
        return self._before + time.monotonic() - self._since

    def close(self, state: State, reason: str) -> None:
        """Write how the grid ended."""
        self.record.state, self.record.reason, self.record.ended = state, reason, datetime.now(UTC)
        self._write()

    def read_records(self) -> dict[str, RunRecord]:
        """The records of the trials that have begun, by name."""
        found = {}
        for trial in self.trials:
            with suppress(MissingError, UserError):  # not begun, or being written
                found[trial.name] = read_record(self.folder / trial.name)
        return found

    def _watch(self) -> None:
        poll = POLL_SECONDS.get(self.folder.scheme, REMOTE_POLL_SECONDS)
        polled = written = time.monotonic()
        while not self._closing.wait(LOOK_SECONDS):
            now, is_told = time.monotonic(), bool(self.reason)
            if self._signals and not self.reason:
                self.reason = describe_signal(self._signals[0])
            if not self.reason and (loss := self.find_loss()):
                self.loss = self.reason = loss
                self._silent_since = now
            if is_told != bool(self.reason) or now - polled >= poll:
                polled = now
                with suppress(StorageError):  # the next look may reach it
                    self.look()
            if now - written >= HEARTBEAT_SECONDS:
                written = now
                with suppress(StorageError):
                    self._write()

    def look(self) -> None:
        """Hear a stop file and the budget; tell every live trial. Once more after the last: it may have heard first."""
        stop = self.folder / STOP
        self.reason = self.reason or read_stop(self.folder) or ""
        records = self.read_records()
        self.hear(list(records.values()))
        self.reason = self.reason or self.judge(self.seconds, list(records.values())) or ""
        if not self.reason:
            return
        if not any(record.state in LIVE for record in records.values()):
            self._silent_since = self._silent_since or time.monotonic()
        if not stop.exists():
            stop.write_text(f"{self.reason}\n")
        for name, record in records.items():
            if record.state in LIVE and not (self.folder / name / STOP).exists():
                (self.folder / name / STOP).write_text(f"{self.reason}\n")
        if self.record.reason != self.reason:
            self.record.reason = self.reason
            self._write()

    def _write(self) -> None:
        self.record.heartbeat, self.record.heartbeat_uptime = datetime.now(UTC), read_uptime()
        self.record.seconds = round(self.seconds, 3)
        write_grid(self.folder, self.record)
