"""A command under way on a host."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command that was begun on a host."""

    name: str
    process: subprocess.Popen[bytes]
    said: Path
    """File that what it says goes to."""

    def read(self) -> str:
        """What it has said so far."""
        return self.said.read_text(errors="replace")

    def wait(self, seconds: float, tell: Callable[[], str] = str) -> int:
        """Its exit status; fails the test where it has none in time, with what it and `tell` say."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.stop()
            pytest.fail(f"{self.name}: not within {seconds:g} s\n{self.read()[-3000:]}\n{tell()}")

    def stop(self) -> None:
        """End it."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def has_ended(command: Command) -> str:
    """ENDED once it has; else nothing."""
    return ENDED if command.process.poll() is not None else ""
