"""What a run had to say when its folder could not be written: kept on the machine's own disk, for who looks next.

A store that is gone, or a disk that is full, ends a run and keeps it from saying so in its folder. The record then lies
among the machine's temporary files; who next looks at the run from this machine, or goes on with it, writes it where it
belongs.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from worldmodel.object_store import StorageError
from worldmodel.run.record import RunRecord
from worldmodel.storage import Location


def keep_words(run: Location, text: str) -> Path | None:
    """Keep a record's text; returns where, None where there is no room for it either."""
    path = _find_place(run)
    with suppress(StorageError):
        Location.of(path).write_text(text)
        return path
    return None


def find_words(run: Location, written: RunRecord) -> RunRecord | None:
    """The record that the process which wrote `written` could not store; None: there is none."""
    path = _find_place(run)
    try:
        if path.is_symlink() or path.stat().st_uid != os.getuid():  # a folder that all users share
            return None
        found = RunRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    is_same = (found.started, found.pid, len(found.attempts)) == (written.started, written.pid, len(written.attempts))
    return found if is_same and found.seconds.total >= written.seconds.total else None


def forget_words(run: Location) -> None:
    """They stand in the run's folder now."""
    with suppress(OSError):
        _find_place(run).unlink()


def _find_place(run: Location) -> Path:
    name = hashlib.sha256(str(run).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"worldmodel-{name}-run.json"
