"""Whether Ray's head still answers. Without it no worker can be watched, and Ray ends its drivers after a minute."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from dataclasses import dataclass

from worldmodel.errors import UserError
from worldmodel.object_store import StorageError
from worldmodel.run.run_folder import LIVE, read_record, read_written
from worldmodel.run.stop_request import STOP
from worldmodel.storage import Location

ASK_SECONDS = 4.0
"""Time between two questions to the head, and the longest wait for an answer."""
GONE_SECONDS = 18.0
"""A head that has not answered for so long is gone: Ray's own patience is a minute, and ends the process."""
SAVE_SECONDS = 15.0
"""Longest wait for a first worker that is still there to save itself."""
LOOK_SECONDS = 0.5
"""Time between two looks at its record."""


class HeadLostError(RuntimeError):
    """Ray's head is gone."""


@dataclass(kw_only=True)
class HeadWatch:
    """Asks a head for a connection, now and then."""

    address: str
    """HOST:PORT of its control process."""
    _asked: float | None = None
    """When it was asked last; None: nobody looks yet."""
    _answered: float = 0.0

    @classmethod
    def join(cls) -> HeadWatch:
        """That of the Ray which this process has joined."""
        import ray

        return cls(address=ray.get_runtime_context().gcs_address)

    def look(self, run: Location) -> None:
        """HeadLostError where the head is gone, after the first worker of the run had time to save itself."""
        if loss := self.find_loss():
            _let_save(run, loss)
            raise HeadLostError(loss)

    def judge(self, run: Location) -> None:
        """HeadLostError, as `look`, where the head does not answer now, as when something of Ray has failed."""
        if not _answers(self.address):
            loss = self._describe("does not answer")
            _let_save(run, loss)
            raise HeadLostError(loss)

    def find_loss(self) -> str:
        """Why the head is taken for gone, in a sentence; empty: it is there, or has not been silent for long."""
        now = time.monotonic()
        if self._asked is None:  # what passed before was no silence: nobody had asked
            self._asked = self._answered = now
        if now - self._asked < ASK_SECONDS:
            return ""
        self._asked = now
        if _answers(self.address):
            self._answered = now
        silent = now - self._answered
        return self._describe(f"has not answered for {silent:.0f} s") if silent > GONE_SECONDS else ""

    def _describe(self, what: str) -> str:
        return f"Ray's head at {self.address} {what}: it was ended or lost"


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ASK_SECONDS):
            return True
    except OSError:
        return False


def _let_save(run: Location, reason: str) -> None:
    """Ask the first worker, which may still train, to stop, and wait until it has, or is known to be gone."""
    until = time.monotonic() + SAVE_SECONDS
    with suppress(StorageError, UserError):
        (run / STOP).write_text(f"{reason}\n")
        while read_record(run).state in LIVE and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
        if read_written(run).state in LIVE:  # it said nothing: nobody had asked for this end
            (run / STOP).delete()
