"""Background processes that watch a cluster machine: one of each kind, restarted when it fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

HOME = Path("~/.worldmodel").expanduser()
"""Folder of their logs, notes and process ids."""


def begin(name: str) -> Path:
    """Run `python -m cluster.NAME watch` until it ends well, in place of one that runs; returns its log."""
    HOME.mkdir(parents=True, exist_ok=True)
    log, pid = HOME / f"{name}.log", HOME / f"{name}.pid"
    with suppress(OSError, ValueError):
        os.killpg(int(pid.read_text()), signal.SIGTERM)
    again = f'until "$0" -m cluster.{name} watch; do sleep 10; done'
    with log.open("a") as file:
        process = subprocess.Popen(
            ["bash", "-c", again, sys.executable], stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip
    pid.write_text(str(process.pid))
    return log


def say(text: str) -> None:
    """A line of the log."""
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}", flush=True)
