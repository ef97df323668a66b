"""A folder of replays as a source of games: parsed once into the parsed layout, beside what is made of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from worldmodel.errors import UserError
from worldmodel.games.parse import parse_replays
from worldmodel.games.source import META, Rejection, is_replay
from worldmodel.progress import Tell, say_nothing
from worldmodel.storage import Location

PARSED = "parsed"
"""Folder below the output that holds the parsed games."""


def holds_replays(source: Location) -> bool:
    """Whether `source` is a replay or a folder of them, rather than games in another form."""
    if is_replay(source.name):
        return True
    if source.name.endswith((".pt", ".tar")) or source.is_file():
        return False
    found = source.list_entries()
    if any(entry.name == META or entry.name.endswith(".tar") for entry in found):
        return False
    return any(is_replay(entry.name) for entry in found) or any(
        is_replay(entry.name) for entry in source.list_entries(recursive=True)
    )


def parse_source(source: Location, out: Location, tell: Tell = say_nothing) -> tuple[Location, list[Rejection]]:
    """Parse the replays of `source` into `out`/parsed, which then holds their games alone, and say which gave none.

    UserError where that cannot be.
    """
    local, target = source.local_path(), out.local_path()
    if local is None or target is None:
        raise UserError(
            f"{source} holds replays, which are parsed on a local disk only: parse them there with "
            "`worldmodel games parse`, and encode the parsed games"
        )
    parse_replays(local, target / PARSED, workers=len(os.sched_getaffinity(0)), tell=tell, is_mirror=True)
    return out / PARSED, _read_rejected(target / PARSED / "rejected.json")


def _read_rejected(path: Path) -> list[Rejection]:
    return [Rejection(**entry) for entry in json.loads(path.read_text())]
