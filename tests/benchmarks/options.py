"""What all benchmarks are told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured on, and how long."""

    games: Path
    """Folder of parsed games (`meta.json`, `games/`)."""
    blocks: Path
    """The same games, encoded."""
    scratch: Path
    """Folder for what a benchmark writes; removed afterwards."""
    rounds: int
    """Turns of each contestant."""
    peers: Path | None
    """Python of the environment with the peers' libraries; None where it was not made."""
