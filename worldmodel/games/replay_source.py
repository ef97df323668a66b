"""A folder of replays as a source of games: parsed once into the parsed layout, beside what is made of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from worldmodel.errors import UserError
from worldmodel.games.parse import REPLAY_ENDINGS, parse_replays
from worldmodel.games.source import META, Rejection
from worldmodel.storage import Location

PARSED = "parsed"
"""Folder below the output that holds the parsed games."""


def holds_replays(source: Location) -> bool:
    """Whether `source` is a replay or a folder of them, rather than games in another form."""
    if source.name.endswith((*REPLAY_ENDINGS, ".pt", ".tar")):
        return source.name.endswith(REPLAY_ENDINGS)
    found = source.list_entries()
    if any(entry.name == META or entry.name.endswith(".tar") for entry in found):
        return False
    below = found if any(e.name.endswith(REPLAY_ENDINGS) for e in found) else source.list_entries(recursive=True)
    return any(entry.name.endswith(REPLAY_ENDINGS) for entry in below)


def parse_source(source: Location, out: Location) -> tuple[Location, list[Rejection]]:
    """Parse the replays of `source` into `out`/parsed, and say which gave no game. UserError where that cannot be."""
    local, target = source.local_path(), out.local_path()
    if local is None or target is None:
        raise UserError(
            f"{source} holds replays, which are parsed on a local disk only: parse them there with "
            "`worldmodel games parse`, and encode the parsed games"
        )
    parse_replays(local, target / PARSED, workers=len(os.sched_getaffinity(0)))
    return out / PARSED, _read_rejected(target / PARSED / "rejected.json")


def _read_rejected(path: Path) -> list[Rejection]:
    return [Rejection(**entry) for entry in json.loads(path.read_text())]
