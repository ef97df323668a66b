"""One writer per run: `lock.json` in its folder names the process that may write there.

On a local disk the file is taken under a file lock of the operating system. In an object store, which has none that all
stores know, who wants it writes its name, waits, and has it if its name is still there; and who has it looks again with
every sign of life, so that of two that took it at once one ends.
A lock is free where its process is known to be gone, or gave no sign of life while it was watched: clocks of two
machines are never compared.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from pydantic import BaseModel, Field, ValidationError

from worldmodel.errors import UserError
from worldmodel.machine.process import identify, is_gone
from worldmodel.object_store import MissingError, StorageError
from worldmodel.storage import Location

LOCK = "lock.json"
BEAT_SECONDS = 15.0
"""Time between two signs of life of who has a lock."""
WATCH_SECONDS = 40.0
"""How long a lock whose process may live elsewhere is watched for a sign of life, where the last one seems old."""
OLD_SECONDS = 120.0
"""A sign of life seems old after so long."""
SETTLE_SECONDS = 1.0
"""Wait before it is read who has a lock in an object store."""


class LockedError(UserError):
    """Another process writes into this folder."""


class Holder(BaseModel):
    """Who has a lock."""

    token: str = Field(default_factory=lambda: uuid.uuid4().hex)
    """Names one taking of it."""
    host: str = Field(default_factory=socket.gethostname)
    pid: int = Field(default_factory=os.getpid)
    pid_space: str = Field(default_factory=lambda: str(identify()["pid_space"]))
    pid_start: int | None = None
    heartbeat: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @property
    def is_gone(self) -> bool:
        """Whether its process is known to be no more."""
        return is_gone(self.host, self.pid, self.pid_space, self.pid_start)

    @property
    def seems_old(self) -> bool:
        """Whether its last sign of life is old by this machine's clock."""
        return (datetime.now(UTC) - self.heartbeat).total_seconds() > OLD_SECONDS


class Lock:
    """A lock that this process has, kept by a thread; a context that gives it back."""

    def __init__(self, folder: Location, holder: Holder, on_loss: Callable[[str], None]) -> None:
        self._folder, self._holder, self._on_loss = folder, holder, on_loss
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lock", daemon=True)
        self._thread.start()

    @property
    def token(self) -> str:
        """Names this taking of the lock."""
        return self._holder.token

    def _keep(self) -> None:
        while not self._closing.wait(BEAT_SECONDS):
            with contextlib.suppress(StorageError):
                if loss := find_loss(self._folder, self.token):
                    self._on_loss(loss)
                    return
                _write(self._folder, self._holder)

    def release(self) -> None:
        """Give it back, if it is still this process's."""
        self._closing.set()
        self._thread.join()
        with contextlib.suppress(StorageError, OSError):
            found = read_holder(self._folder)
            if found and found.token == self.token:
                (self._folder / LOCK).delete()
            if (local := self._folder.local_path()) is not None:
                local.rmdir()  # it holds nothing where the run never began

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def take_lock(folder: Location, on_loss: Callable[[str], None] = lambda reason: None) -> Lock:
    """The lock of a run's folder, also from a process that is gone.

    Args:
        folder: the run's.
        on_loss: called from a thread, once, where another process has taken it: nothing more may be written.

    Raises:
        LockedError: a process that lives has it.
    """
    holder = Holder.model_validate({"host": socket.gethostname(), **identify()})
    found = read_holder(folder)
    if found and not found.is_gone and found.seems_old:
        _watch(folder, found)
    with _guarding(folder):
        now = read_holder(folder)
        if now and not now.is_gone and (found is None or (now.token, now.heartbeat) != (found.token, found.heartbeat)):
            raise _refuse(folder, now)
        if now and not now.is_gone and not now.seems_old:
            raise _refuse(folder, now)
        _write(folder, holder)
        if folder.local_path() is None:
            time.sleep(SETTLE_SECONDS)
        if loss := find_loss(folder, holder.token):
            raise LockedError(f"{folder}: {loss}")
    return Lock(folder, holder, on_loss)


def find_loss(folder: Location, token: str) -> str | None:
    """Who has the lock instead of `token`'s process; None: nobody.

    Raises:
        StorageError: a store does not answer.
    """
    found = read_holder(folder)
    if found is None or found.token == token:
        return None
    return f"another process writes there now, on {found.host} (process {found.pid})"


def read_holder(folder: Location) -> Holder | None:
    """Who has the lock; None: nobody, or what is written cannot be understood."""
    try:
        return Holder.model_validate_json((folder / LOCK).read_bytes())
    except (MissingError, ValidationError):
        return None


def is_held(folder: Location) -> bool:
    """Whether a process that seems alive has the lock."""
    found = read_holder(folder)
    return found is not None and not found.is_gone and not found.seems_old


def _watch(folder: Location, found: Holder) -> None:
    """LockedError where a lock whose last sign of life seems old gets a new one: only the clocks differ."""
    until = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < until:
        time.sleep(min(1.0, WATCH_SECONDS / 4))
        now = read_holder(folder)
        if now is None:
            return
        if (now.token, now.heartbeat) != (found.token, found.heartbeat):
            raise _refuse(folder, now)


def _refuse(folder: Location, holder: Holder) -> LockedError:
    return LockedError(
        f"{folder} is being written by a process on {holder.host} (process {holder.pid}): stop it first, or choose "
        f"another name; if it was killed, wait {OLD_SECONDS:.0f} s"
    )


def _write(folder: Location, holder: Holder) -> None:
    holder.heartbeat = datetime.now(UTC)
    (folder / LOCK).write_text(holder.model_dump_json(indent=1) + "\n")


@contextlib.contextmanager
def _guarding(folder: Location) -> Iterator[None]:
    """While it lasts no other process of this machine takes a lock below the same storage."""
    local = folder.local_path()
    if local is None:
        yield
        return
    try:
        local.mkdir(parents=True, exist_ok=True)
        handle = os.open(local, os.O_RDONLY)
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error.strerror}; choose a folder that you may write to") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
