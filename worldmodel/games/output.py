"""The folder that a command writes games or blocks into: named on purpose, and written by one process at a time."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from worldmodel.errors import UserError
from worldmodel.local_file import holding
from worldmodel.object_store import explain_failure
from worldmodel.storage import Location

LOCK = ".lock"
"""Stands in a folder on a disk while it is written, and names the process; it counts only while that process lives."""
OnWait = Callable[[str], None]
"""Told which process is waited for."""


def name_places(source: str, out: str) -> tuple[Location, Location]:
    """Source and output. UserError where one has an empty name, or both are one folder, under whatever names."""
    for name, what in ((source, "source"), (out, "output")):
        if not name:
            raise UserError(f"the {what} is an empty name: name a folder (. is the one that you are in)")
    place, target = Location.of(source), Location.of(out)
    if _resolve(place) == _resolve(target):
        raise UserError(f"{target} is named as source and as output, which needs a folder of its own")
    return place, target


def _resolve(place: Location) -> Location:
    local = place.local_path()
    return place if local is None else Location.of(local.resolve())


@contextmanager
def writing_alone(folder: Location, on_wait: OnWait | None = None) -> Iterator[None]:
    """While it lasts nobody else writes into a folder on a disk; it is made where it is not there.

    An object store has no such lock: there nobody is kept out.

    Raises:
        UserError: another process writes there and `on_wait` is None, or it cannot be written.
    """
    local = folder.local_path()
    if local is None:
        yield
        return
    made = [path for path in (local, *local.parents) if not path.exists()]
    with _hold(folder, local, on_wait):
        try:
            yield
        finally:
            (local / LOCK).unlink(missing_ok=True)
            with suppress(OSError):  # a refused request leaves nothing behind, all else is not empty
                for path in made:
                    path.rmdir()


def _hold(folder: Location, local: Path, on_wait: OnWait | None) -> ExitStack:
    is_patient = False
    while True:
        with explain_failure(str(folder), "write into"), ExitStack() as stack:
            local.mkdir(parents=True, exist_ok=True)
            try:
                file = stack.enter_context(holding(local / LOCK, is_patient=is_patient))
            except FileNotFoundError:
                continue  # who held it has removed the folder
            except BlockingIOError:
                if on_wait is None:
                    raise UserError(f"{_tell(folder, local)}: wait until it has ended, or name another") from None
                on_wait(f"{_tell(folder, local)}: waiting until it has ended")
                is_patient = True
                continue
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
            file.flush()
            return stack.pop_all()


def _tell(folder: Location, local: Path) -> str:
    with suppress(OSError):
        return f"{folder} is being written by {(local / LOCK).read_text() or 'another process'}"
    return f"{folder} is being written by another process"
