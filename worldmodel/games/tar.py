"""Packing a parsed folder into tar shards, for sequential reading from an object store (`shard.py` reads them)."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path

from worldmodel.errors import GameError, UserError
from worldmodel.games.output import name_places, writing_alone
from worldmodel.games.parsed import read_game
from worldmodel.games.shard import ENTRY, GAME, IDS
from worldmodel.games.source import META, Listing, Unit, list_source
from worldmodel.storage import Location


@dataclass(frozen=True, kw_only=True)
class PackSummary:
    """What `pack_games` wrote."""

    shards: int
    games: int
    bytes: int
    rejected: int


def pack_games(source: str, out: str, shard_mb: float = 200.0) -> PackSummary:
    """Pack a parsed folder's games into shards of about `shard_mb` megabytes; the bytes of each game stay as they are.

    Shards are written whole under their final name or not at all; names count from `shard-000000.tar`. UserError where
    `out` holds games already, which would be read together with these.
    """
    place, target = name_places(source, out)
    listing = list_source(str(place), training_only=False)
    if any(unit.kind != "parsed" for unit in listing.units):
        raise UserError(f"{source} holds no parsed games (meta.json and games/), which are what can be packed")
    if not shard_mb > 0:
        raise UserError(f"shards of {shard_mb} MB: found {shard_mb}, expected more than 0")
    with writing_alone(target):
        if held := [e.name for e in target.list_entries() if e.name == META or e.name.endswith(".tar")]:
            raise UserError(
                f"{target} holds games already ({', '.join(held[:3])}{', ...' if held[3:] else ''}), which would be "
                "read together with those packed now: delete them first, or name another folder"
            )
        return _pack(listing, target, shard_mb)


def _pack(listing: Listing, target: Location, shard_mb: float) -> PackSummary:
    number, games, total = 0, 0, 0
    rejected = [asdict(r) for r in listing.rejected]
    buffer = bytearray()
    for unit in listing.units:
        try:
            buffer += pack_game(unit)
        except (OSError, UserError) as error:
            rejected.append({"file": f"games/{unit.name}", "reason": f"cannot be packed: {error}"})
            continue
        games += 1
        if len(buffer) >= shard_mb * 1e6:
            total, number = total + _write(buffer, target, number), number + 1
            buffer = bytearray()
    if buffer:
        total, number = total + _write(buffer, target, number), number + 1
    (target / "rejected.json").write_text(json.dumps(rejected, indent=1))
    if not games:
        raise UserError(f"no game could be packed, the first because: {rejected[0]['reason']}")
    return PackSummary(shards=number, games=games, bytes=total, rejected=len(rejected))


def pack_game(unit: Unit) -> bytes:
    """A parsed game as members of a shard; the same game gives the same bytes. A shard is games, then `end_shard`.

    Raises OSError or UserError where it cannot be read, or its name cannot be that of a game in a shard.
    """
    if "." in unit.name:
        raise UserError("in a shard a game's name ends at its first dot: give it one without, in meta.json as well")
    data = Location.of(unit.uri).read_bytes()
    ids = Location.of(unit.frame_ids).read_bytes() if unit.frame_ids else b""
    _check_linked(unit, data, ids)
    buffer = io.BytesIO()
    archive = tarfile.open(fileobj=buffer, mode="w")  # noqa: SIM115  closing it would end the shard
    _add(archive, f"{unit.name}.{GAME}", data)
    _add(archive, f"{unit.name}.{ENTRY}", json.dumps(unit.entry).encode())
    if ids:
        _add(archive, f"{unit.name}.{IDS}", ids)
    return buffer.getvalue()


def _check_linked(unit: Unit, data: bytes, ids: bytes) -> None:
    """UserError where a link in a folder from elsewhere takes along a file of this machine that is no game."""
    folder = Location.of(unit.uri).parent.parent
    if outside := find_outside(unit.uri, folder) or (find_outside(unit.frame_ids, folder) if ids else None):
        try:
            read_game(data, unit.name, unit.entry, ids or None)
        except GameError as error:
            raise UserError(f"it leads to {outside}, outside its folder, which is no game's: {error}") from error


def find_outside(uri: str, folder: Location) -> Path | None:
    """Where a file lies that a link takes out of `folder`; None: within it, or in an object store."""
    path, root = Location.of(uri).local_path(), folder.local_path()
    if path is None or root is None or path.resolve().is_relative_to(root.resolve()):
        return None
    return path.resolve()


def end_shard(size: int) -> bytes:
    """What follows the games of a shard, which take `size` bytes: two blocks of zeros, filled up to a whole record."""
    end = 2 * tarfile.BLOCKSIZE
    return bytes(end + -(size + end) % tarfile.RECORDSIZE)


def _write(games: bytearray, target: Location, number: int) -> int:
    games += end_shard(len(games))
    (target / f"shard-{number:06d}.tar").write_bytes(bytes(games))
    return len(games)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))
