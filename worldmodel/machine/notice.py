"""The cloud's notice that this machine is about to be taken away, as `cluster/notice.py` writes it down."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

FILE = "WORLDMODEL_NOTICE"
"""Environment variable: the file, if it is not `~/.worldmodel/notice.json`."""


@dataclass(frozen=True, kw_only=True)
class Notice:
    """That a machine goes away."""

    reason: str
    """What the cloud says."""
    deadline: float
    """When it goes, in seconds since 1970."""


def find_notice_file() -> Path:
    """Where notices of this machine are written."""
    return Path(os.environ.get(FILE) or "~/.worldmodel/notice.json").expanduser()


def read_notice() -> Notice | None:
    """The notice for this machine; None: there is none, or it cannot be understood."""
    try:
        found = json.loads(find_notice_file().read_text())
        return Notice(reason=str(found["reason"]), deadline=float(found["deadline"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
