"""Files on a local disk: replaced whole or not at all, and held by one process at a time."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BufferedIOBase, BufferedRandom
from pathlib import Path


@contextmanager
def replacing(target: Path) -> Iterator[BufferedIOBase]:
    """A stream whose bytes become `target` when the block ends well, and vanish when it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_read_umask())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def holding(path: Path, *, is_patient: bool = True) -> Iterator[BufferedRandom]:
    """A file to append to, made where there is none, that nobody else holds meanwhile, in this process or another.

    Who holds it is waited for, or else, where `is_patient` is false, is a BlockingIOError; a process that ended holds
    nothing.
    """
    while True:
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if is_patient else fcntl.LOCK_NB))
            if _is_at(file, path):  # else its holder has renamed or removed it meanwhile
                yield file
                return


def _is_at(file: BufferedRandom, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@cache
def _read_umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current
