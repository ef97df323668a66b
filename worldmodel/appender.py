"""A text file that grows line by line, on a local disk or in an object store, whose objects cannot grow."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from pathlib import Path
from typing import Protocol, runtime_checkable

from worldmodel.object_store import StorageError, explain_failure
from worldmodel.storage import Location

MOST_WAITING = 1 << 26
"""Bytes of lines that wait in memory at most where a disk is full; past these lines are lost."""


@runtime_checkable
class Appender(Protocol):
    """An open text file to add lines to."""

    def write_line(self, line: str) -> None:
        """Add one line (without its end of line).

        Raises:
            StorageError: there is no room for it now; it waits in memory, and is written with a later one.
        """
        ...

    def close(self) -> None:
        """Store what has been written.

        Raises:
            StorageError: it could not be stored; the message says where the lines are.
        """
        ...


def open_appender(location: Location, upload_every: float = 30.0) -> Appender:
    """Opens a text file for appending; what it already holds stays.

    Locally every line is flushed as it is written. In an object store lines gather in a local file, which a background
    thread uploads at most once per `upload_every` seconds, and `close` uploads.
    """
    local = location.local_path()
    return _LocalAppender(local) if local is not None else _SpooledAppender(location, upload_every)


class _LocalAppender:
    def __init__(self, path: Path) -> None:
        self._path = path
        with explain_failure(str(path), "write"):
            path.parent.mkdir(parents=True, exist_ok=True)
            _end_last_line(path)
            self._stream = path.open("ab", buffering=0)
        self._waiting = bytearray()
        self._lock = threading.Lock()

    def write_line(self, line: str) -> None:
        with self._lock:
            if len(self._waiting) < MOST_WAITING:
                self._waiting += f"{line}\n".encode()
            self._write()

    def close(self) -> None:
        with self._lock:
            try:
                self._write()
            finally:
                self._stream.close()

    def _write(self) -> None:
        """Write what waits; what finds no room goes on waiting, so that no line is torn."""
        with explain_failure(str(self._path), "write"):
            while self._waiting:
                del self._waiting[: self._stream.write(self._waiting)]


class _SpooledAppender:
    def __init__(self, location: Location, upload_every: float) -> None:
        self._location = location
        self._spool = Path(tempfile.mkdtemp(prefix="worldmodel-")) / location.name
        if location.exists():
            location.copy_to(self._spool)
        self._local = _LocalAppender(self._spool)
        self._upload_every = upload_every
        self._uploaded = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep_uploading, name=f"upload {location.name}", daemon=True)
        self._thread.start()

    def write_line(self, line: str) -> None:
        self._local.write_line(line)

    def close(self) -> None:
        if self._closing.is_set():
            return
        self._closing.set()
        self._local.close()
        self._thread.join()
        try:
            self._upload()
        except StorageError as error:
            raise StorageError(f"{error}; the lines are in {self._spool}") from error
        self._spool.unlink()
        self._spool.parent.rmdir()

    def _keep_uploading(self) -> None:
        while not self._closing.wait(self._upload_every):
            # What cannot be sent now is sent whole by the next round, or by `close`.
            with contextlib.suppress(StorageError):
                self._upload()

    def _upload(self) -> None:
        size = self._spool.stat().st_size
        if size != self._uploaded:
            self._location.upload(self._spool)
            self._uploaded = size


def _end_last_line(path: Path) -> None:
    """Ends a line that a crash left unfinished, so that the next line stands alone."""
    if path.exists() and path.stat().st_size:
        with path.open("r+b") as stream:
            stream.seek(-1, 2)
            if stream.read(1) != b"\n":
                stream.write(b"\n")
