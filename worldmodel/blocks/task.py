"""One task of encoding: its games are read one by one, packed, verified and written as blocks of about 64 MB.

Memory is bounded by the blocks under way, not by the number of games. Nothing here needs Ray or torch.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from worldmodel.blocks.audit import Audit
from worldmodel.blocks.block import PackedGame
from worldmodel.blocks.builder import BlockBuilder
from worldmodel.blocks.index import BlockEntry, GameEntry, entry_from_json, partition_of
from worldmodel.blocks.layout import LAYOUTS, layout_named
from worldmodel.errors import UserError
from worldmodel.games.absence import list_declared
from worldmodel.games.entry import find_disputes, read_whole
from worldmodel.games.game import Game
from worldmodel.games.source import Reading, Rejection, Unit, read_games
from worldmodel.storage import Location

BLOCK_BYTES = 64 << 20
PENDING_BYTES = 192 << 20
"""Bytes of packed games that a task may hold before it writes its largest pending block."""
TWICE = "the same game stands earlier in the source"


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What one task wrote and found."""

    games: list[GameEntry] = field(default_factory=list)
    blocks: list[BlockEntry] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    filtered: list[Rejection] = field(default_factory=list)
    audit: Audit = field(default_factory=Audit)

    def to_json(self) -> str:
        """What travels from a worker to the driver."""
        lists = {name: [vars(x) for x in getattr(self, name)] for name in _LISTS}
        return json.dumps({**lists, "audit": self.audit.counts()})

    @classmethod
    def from_json(cls, text: str) -> TaskResult:
        """The result that `to_json` wrote."""
        found = json.loads(text)
        lists = {name: [kind(x) for x in found[name]] for name, kind in _LISTS.items()}
        return cls(**lists, audit=Audit.from_counts(found["audit"]))


_LISTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "games": entry_from_json,
    "blocks": lambda found: BlockEntry(**found),
    "rejected": lambda found: Rejection(**found),
    "filtered": lambda found: Rejection(**found),
}


@dataclass(frozen=True)
class EncodeTask:
    """The function that Ray Data maps over tasks."""

    out: str
    environment: dict[str, str] = field(default_factory=dict)
    """The driver's settings of its object store, which workers on other machines may lack."""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Encode one task's units; a user's error comes back as `error`, without the worker's traceback."""
        os.environ.update(self.environment)
        units = [Unit(**unit) for unit in json.loads(row["units"])]
        try:
            return {"number": row["number"], "result": self.encode(units).to_json(), "error": ""}
        except UserError as error:
            return {"number": row["number"], "result": "", "error": str(error)}

    def encode(self, units: list[Unit]) -> TaskResult:
        """Read, verify and write some units; every game ends in a block, among the filtered or the rejected."""
        writer, audit, seen = BlockWriter(Location.of(self.out)), Audit(), set()
        rejected: list[Rejection] = []
        filtered: list[Rejection] = []
        for reading in read_games(units):
            if reading.game is None:
                (filtered if reading.is_filtered else rejected).append(
                    Rejection(file=reading.file, reason=reading.reason)
                )
            elif reading.game.md5 in seen:
                rejected.append(Rejection(file=reading.file, reason=TWICE))
            else:
                seen.add(reading.game.md5)
                audit.add_game(reading.game)
                writer.add(reading.game, reading)
        writer.close()
        return TaskResult(games=writer.games, blocks=writer.blocks, rejected=rejected, filtered=filtered, audit=audit)


class BlockWriter:
    """Packs games into blocks under way, one for each partition and layout, and writes those that are full."""

    def __init__(self, out: Location) -> None:
        self.out = out
        self.games: list[GameEntry] = []
        self.blocks: list[BlockEntry] = []
        self._builders: dict[tuple[int, str], BlockBuilder] = {}
        self._pending: dict[tuple[int, str], list[GameEntry]] = defaultdict(list)

    def add(self, game: Game, reading: Reading) -> None:
        """Pack a game into the first layout that keeps every bit of it."""
        partition = partition_of(game.md5)
        for layout in LAYOUTS:
            packed = self._make_room(partition, layout, game.frames).add(game)
            if packed is not None:
                break
        else:
            raise AssertionError(f"game {game.md5} fits no layout although every reader checks storage types")
        self._pending[partition, layout].append(_entry_of(game, packed, reading))
        if sum(builder.bytes for builder in self._builders.values()) > PENDING_BYTES:
            self._write(max(self._builders, key=lambda key: self._builders[key].bytes))

    def _make_room(self, partition: int, layout: str, frames: int) -> BlockBuilder:
        """The block under way, with room for a game; a full one is written first."""
        builder = self._builders.get((partition, layout))
        if builder is not None and builder.room < frames and builder.games:
            self._write((partition, layout))
        if builder is None or builder.room < frames:
            capacity = BLOCK_BYTES // layout_named(layout).frame_bytes
            self._builders[partition, layout] = BlockBuilder(layout_named(layout), max(capacity, frames))
        return self._builders[partition, layout]

    def close(self) -> None:
        """Write what is left."""
        for key in sorted(self._pending):
            self._write(key)

    def _write(self, key: tuple[int, str]) -> None:
        builder, pending = self._builders.pop(key), self._pending.pop(key)
        written, row = builder.write(self.out), 0
        for entry in pending:
            self.games.append(replace(entry, block=written.name, row=row))
            row += entry.frames
        self.blocks.append(
            BlockEntry(
                name=written.name, layout=key[1], partition=key[0], frames=row, games=len(pending),
                bytes=written.bytes, sha256=written.sha256,
            )
        )  # fmt: skip


def read_facts(entry: dict[str, object]) -> dict[str, Any]:
    """What the index keeps of a game's entry of meta.json, by the names of `GameEntry`."""
    return {
        "end_method": read_whole(entry.get("game_end_method")),
        "played_on": str(entry.get("played_on") or ""),
        "declared": list_declared(entry),
    }


def _entry_of(game: Game, packed: PackedGame, reading: Reading) -> GameEntry:
    return GameEntry(
        md5=game.md5,
        frames=game.frames,
        stage=game.stage,
        characters=game.characters,
        block="",
        row=0,
        order=reading.unit.order,
        source=reading.unit.kind,
        source_bytes=reading.unit.bytes,
        shard="" if reading.unit.kind == "parsed" else reading.unit.name,
        repeats=game.repeats,
        missing=tuple(sorted(game.missing)),
        absent=tuple(sorted(game.absent)),
        place=reading.place,
        digest=packed.digest(),
        disputed=find_disputes(game.stage, game.characters, game.entry),
        **read_facts(game.entry),
    )
