"""Preemption notice for this machine, as written by `cluster/notice.py`."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

FILE = "WORLDMODEL_NOTICE"
"""Environment variable: path of the notice file; default `~/.worldmodel/notice.json`."""


@dataclass(frozen=True, kw_only=True)
class Notice:
    """A preemption notice."""

    reason: str
    """The cloud's own text."""
    deadline: float
    """Time at which the machine is taken away, in seconds since 1970."""


def find_notice_file() -> Path:
    """Path of this machine's notice file."""
    return Path(os.environ.get(FILE) or "~/.worldmodel/notice.json").expanduser()


def read_notice() -> Notice | None:
    """The notice for this machine, or None if the file is missing or invalid."""
    try:
        found = json.loads(find_notice_file().read_text())
        return Notice(reason=str(found["reason"]), deadline=float(found["deadline"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
