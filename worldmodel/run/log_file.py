"""`log.txt` of a run folder: every line that the run showed, over all its attempts.

A line is the time (UTC, `2026-01-31 23:59:59`), a space, and the line as it stood on the terminal.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from worldmodel.appender import open_appender
from worldmodel.object_store import StorageError
from worldmodel.redaction import hide_secrets
from worldmodel.storage import Location

LOG = "log.txt"
TIME = "%Y-%m-%d %H:%M:%S"


class LogFile:
    """The log of one run, open for more lines. What cannot be written is told to `note` once, and ends no run."""

    def __init__(self, location: Location, note: Callable[[str], None]) -> None:
        """`location`: the run folder. What its log already holds stays."""
        self._note = note
        self._file = open_appender(location / LOG)
        self._is_told = False

    def write(self, text: str) -> None:
        """Adds a text, each of its lines with the time."""
        now = datetime.now(UTC).strftime(TIME)
        try:
            for line in hide_secrets(text).splitlines():
                self._file.write_line(f"{now} {line}")
        except StorageError as error:
            self._tell(f"lines of {LOG} wait for room: {error}")

    def close(self) -> None:
        """Stores what is left."""
        try:
            self._file.close()
        except StorageError as error:
            self._tell(f"{LOG} could not be stored: {error}")

    def _tell(self, text: str) -> None:
        if not self._is_told:
            self._is_told = True
            self._note(text)
