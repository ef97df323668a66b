"""Whether the data can be read from here, and have the schema of this version."""

from __future__ import annotations

from collections.abc import Iterator

from worldmodel.blocks.block import Block
from worldmodel.blocks.index import has_index, read_index
from worldmodel.doctor.check import Check, failed, passed, skipped, warned
from worldmodel.errors import UserError
from worldmodel.games.replay_source import holds_replays
from worldmodel.games.source import Listing, Unit, list_source, read_games
from worldmodel.object_store import StorageError
from worldmodel.storage import Location

NAME = "data"
TRIED = 3
"""Games that are read for a try: the first, the middle one and the last."""
HEAD_BYTES = 4096
"""Bytes that are read of a file too large for a preflight."""


def examine_data(data: str) -> Iterator[Check]:
    """Games or blocks: listed, and a few of them read. Empty: toy games will be made."""
    if not data:
        yield skipped(NAME, "none named: toy games are made")
        return
    where = Location.of(data)
    try:
        if has_index(where):
            yield _look_at_blocks(where)
        elif holds_replays(where):
            yield passed(NAME, f"{where} holds replays, which encoding parses first")
        else:
            yield _look_at_games(list_source(str(where)), where)
    except StorageError as error:
        yield failed(NAME, str(error), "name games or blocks that this machine can read with --data")
    except UserError as error:
        yield failed(NAME, str(error), "name other games or blocks with --data, or do what the message says")


def _look_at_blocks(where: Location) -> Check:
    """The index, whose schema must be this version's, and the presence and size of every block."""
    index = read_index(where)
    sizes = {entry.name: entry.size for entry in where.list_entries()}
    for block in index.blocks:
        if sizes.get(block.name) != block.bytes:
            return failed(
                NAME, f"{where}: block {block.name} has {sizes.get(block.name, 0):,} bytes, the index says "
                f"{block.bytes:,}", f"encode the games again (worldmodel encode GAMES {where}), or copy it anew",
            )  # fmt: skip
    if index.blocks:
        _read_some(where, min(index.blocks, key=lambda block: block.bytes).name)
    return passed(NAME, f"{where}: {len(index.games):,} games, {index.frames:,} frames, schema {index.schema_hash}")


def _read_some(where: Location, block: str) -> None:
    path = (where / block).local_path()
    if path is not None:
        Block.open(path)
        return
    with (where / block).open_input() as stream:
        stream.read(HEAD_BYTES)


def _look_at_games(listing: Listing, where: Location) -> Check:
    units = listing.units
    left_out = f"; {len(listing.rejected)} cannot be used" if listing.rejected else ""
    if not units:
        first = listing.rejected[0].reason if listing.rejected else "none is for training"
        return failed(NAME, f"{where} has no game to train on: {first}", "name other games with --data")
    loose = [unit for unit in units if unit.kind == "parsed"]
    if not loose:
        for unit in units[:TRIED]:
            with Location.of(unit.uri).open_input() as stream:
                stream.read(HEAD_BYTES)
        return passed(NAME, f"{where}: {len(units):,} shards can be read{left_out}")
    tried = list(read_games(_choose(loose)))
    bad = [reading for reading in tried if reading.game is None]
    if bad:
        tell = failed if len(bad) == len(tried) else warned
        return tell(
            NAME, f"{where}: {len(bad)} of {len(tried)} games tried cannot be used: {bad[0].file}: {bad[0].reason}",
            "encoding leaves such games out, up to a share of 2 %: look at the file, or name other games with --data",
        )  # fmt: skip
    return passed(NAME, f"{where}: {len(units):,} games listed, {min(TRIED, len(loose))} read{left_out}")


def _choose(units: list[Unit]) -> list[Unit]:
    """The first, the middle one and the last."""
    places = sorted({0, len(units) // 2, len(units) - 1})
    return [units[place] for place in places]
