"""What is fuzzed: a reader's whole path from a file's bytes to games, which may end in reasons and in nothing else."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import inputs
from worldmodel.errors import GameError, UserError
from worldmodel.games.game import Game
from worldmodel.games.parsed import read_game
from worldmodel.games.source import Unit, read_games
from worldmodel.games.tensors import iterate_tensors
from worldmodel.schema import PLAYER_FIELDS, PLAYERS
from worldmodel.storage import Location

SCRATCH = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path("/tmp")


@dataclass(frozen=True, kw_only=True)
class Target:
    """One reader."""

    read: Callable[[bytes], int]
    """Reads an input and returns the number of games in it; raises where the reader does what it must not."""
    seeds: Callable[[], tuple[bytes, ...]]
    mutate: Callable[[bytes, random.Random, inputs.Mutate], bytes]


def read_parsed(data: bytes) -> int:
    """A parsed game."""
    try:
        _check(read_game(data, "game", {}))
    except GameError as error:
        return _refused(error)
    return 1


def read_tar(data: bytes) -> int:
    """A tar shard, with the games in it."""
    path = _put(data, ".tar")
    unit = Unit(kind="tar", name=path.name, uri=str(path), bytes=len(data), order=0)
    games = 0
    for reading in read_games([unit]):
        if reading.game is None:
            assert reading.reason, "a member without a game or a reason"
        else:
            _check(reading.game)
            games += 1
        assert ".." not in Path(reading.file).name and "\0" not in reading.file
    return games


def read_tensors(data: bytes) -> int:
    """A `.pt` of encoded games."""
    games = 0
    try:
        for found in iterate_tensors(Location.of(_put(data, ".pt"))):
            games += _refused(found) if isinstance(found, GameError) else _check(found)
    except UserError as error:
        return _refused(error)
    return games


def _refused(error: Exception) -> int:
    assert str(error).strip(), "a refusal without a reason"
    return 0


def _check(game: Game) -> int:
    """A game that was accepted is one: every column has its length."""
    assert game.frames > 0
    for player in range(PLAYERS):
        for field in PLAYER_FIELDS:
            assert game.planes.column(player, field.name).shape == (game.frames,)
    for rows in game.sparse.values():
        assert len(rows.frames) == len(rows.slots)
        assert not len(rows.frames) or 0 <= rows.frames.min() <= rows.frames.max() < game.frames
    return 1


def _put(data: bytes, ending: str) -> Path:
    path = SCRATCH / f"worldmodel-fuzz-{os.getpid()}{ending}"
    path.write_bytes(data)
    return path


TARGETS = {
    "parsed": Target(read=read_parsed, seeds=inputs.seed_parsed, mutate=inputs.mutate_parsed),
    "tar": Target(read=read_tar, seeds=inputs.seed_tar, mutate=inputs.mutate_tar),
    "tensors": Target(read=read_tensors, seeds=inputs.seed_tensors, mutate=inputs.mutate_tensors),
}
