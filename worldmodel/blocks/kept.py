"""What of an earlier encoding still serves, so that a folder holds what a new encoding into an empty one would.

A block stays only if all of its games are still wanted, and a shard only if all of its blocks stay: neither is ever
edited. What the source says of the games that stay (their order, how they ended) is taken over from it.
"""

from __future__ import annotations

from dataclasses import replace

from worldmodel.blocks.index import GameEntry, Index, hash_file
from worldmodel.blocks.task import TWICE, read_facts
from worldmodel.games.entry import find_disputes, find_stage
from worldmodel.games.source import Listing, Unit
from worldmodel.storage import Location

Identity = tuple[object, ...]
Shard = dict[str, object]


def find_damaged(target: Location, known: Index) -> dict[str, str]:
    """Blocks whose games are encoded again: name to what is wrong with them.

    Blocks on this machine are hashed; in an object store sizes must do, and a run hashes what it fetches.
    """
    sizes = {entry.name: entry.size for entry in target.list_entries()} if known.blocks else {}
    found = {}
    for block in known.blocks:
        path = (target / block.name).local_path()
        if sizes.get(block.name) != block.bytes:
            found[block.name] = f"it has {sizes.get(block.name, 0)} bytes, the index says {block.bytes}"
        elif path is not None and hash_file(path) != block.sha256:
            found[block.name] = "its sha256 is not that of the index"
    return found


def divide(known: Index, listing: Listing, damaged: set[str]) -> tuple[Index, list[Unit]]:
    """The part of a known index that still serves, and the units to encode."""
    units = {identify(unit): unit for unit in listing.units}
    stale = damaged | {game.block for game in known.games if not game.shard and not _is_wanted(game, units)}
    lost = {str(shard["name"]) for shard in known.shards if _identify_shard(shard) not in units}
    lost |= {game.shard for game in known.games if game.block in stale}
    if stale or lost:  # a game that stood twice may now stand once
        lost |= {r["file"].split("/")[0] for r in known.rejected if r["reason"] == TWICE}
    shards = [shard for shard in known.shards if shard["name"] not in lost]
    places = {str(shard["name"]): units[_identify_shard(shard)].order for shard in shards}
    games = [game for game in known.games if game.block not in stale and (not game.shard or game.shard in places)]
    games = [_renew(game, units, places) for game in games]
    blocks = {game.block for game in games}
    kept = Index(
        games=games, blocks=[b for b in known.blocks if b.name in blocks], shards=shards, audit=known.audit,
        filtered=[f for f in known.filtered if f["file"].split("/")[0] in places],
        rejected=[r for r in known.rejected if r["file"].split("/")[0] in places],
    )  # fmt: skip
    have = {_identify_game(game) for game in games} | {_identify_shard(shard) for shard in shards}
    return kept, [unit for unit in listing.units if identify(unit) not in have]


def describe_shard(unit: Unit) -> Shard:
    """What the index keeps of a tar shard or .pt: what tells that it is still the one that was read."""
    return {"name": unit.name, "bytes": unit.bytes, "modified": unit.modified, "training_only": unit.training_only}


def identify(unit: Unit) -> Identity:
    """What decides whether a unit was read before; of a game, which its md5 names, that and the size."""
    return (unit.name, unit.bytes) if unit.kind == "parsed" else _identify_shard(describe_shard(unit))


def _identify_game(game: GameEntry) -> Identity:
    return (game.md5, game.source_bytes)


def _identify_shard(shard: Shard) -> Identity:
    return (shard["name"], shard["bytes"], shard.get("modified"), shard["training_only"])


def _is_wanted(game: GameEntry, units: dict[Identity, Unit]) -> bool:
    """Whether a game of its own file is in the source, and would be read there as it was."""
    unit = units.get(_identify_game(game))
    if unit is None:
        return False
    is_same = read_facts(unit.entry)["declared"] == game.declared
    is_same &= find_stage(game.stage, unit.entry) == game.stage
    return is_same and bool(unit.frame_ids) == (game.repeats != "unknown")


def _renew(game: GameEntry, units: dict[Identity, Unit], places: dict[str, int]) -> GameEntry:
    """An entry with what the source says of the game now. `places`: shards to their order."""
    if game.shard:
        return replace(game, order=places[game.shard])
    unit = units[_identify_game(game)]
    disputed = find_disputes(game.stage, game.characters, unit.entry)
    return replace(game, order=unit.order, disputed=disputed, **read_facts(unit.entry))
