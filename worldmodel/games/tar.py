"""Packing a parsed folder into tar shards, for sequential reading from an object store (`shard.py` reads them)."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import asdict, dataclass

from worldmodel.errors import UserError
from worldmodel.games.shard import ENTRY, GAME, IDS
from worldmodel.games.source import Unit, list_source
from worldmodel.storage import Location


@dataclass(frozen=True, kw_only=True)
class PackSummary:
    """What `pack_games` wrote."""

    shards: int
    games: int
    bytes: int
    rejected: int


def pack_games(source: str, out: str, shard_mb: float = 200) -> PackSummary:
    """Pack a parsed folder's games into shards of about `shard_mb` megabytes; the bytes of each game stay as they are.

    Shards are written whole under their final name or not at all; names count from `shard-000000.tar`.
    """
    listing = list_source(source, training_only=False)
    if any(unit.kind != "parsed" for unit in listing.units):
        raise UserError(f"{source} holds no parsed games (meta.json and games/), which are what can be packed")
    if shard_mb <= 0:
        raise UserError(f"shards of {shard_mb} MB: found {shard_mb}, expected more than 0")
    target, number, games, total = Location.of(out), 0, 0, 0
    rejected = [asdict(r) for r in listing.rejected]
    buffer, archive = _new_archive()
    for unit in listing.units:
        try:
            _add_game(archive, unit)
        except (OSError, UserError) as error:
            rejected.append({"file": f"games/{unit.name}", "reason": f"cannot be read: {error}"})
            continue
        games += 1
        if buffer.tell() >= shard_mb * 1e6:
            total, number = total + _close(buffer, archive, target, number), number + 1
            buffer, archive = _new_archive()
    if buffer.tell():
        total, number = total + _close(buffer, archive, target, number), number + 1
    (target / "rejected.json").write_text(json.dumps(rejected, indent=1))
    return PackSummary(shards=number, games=games, bytes=total, rejected=len(rejected))


def _new_archive() -> tuple[io.BytesIO, tarfile.TarFile]:
    buffer = io.BytesIO()
    return buffer, tarfile.open(fileobj=buffer, mode="w")


def _add_game(archive: tarfile.TarFile, unit: Unit) -> None:
    data = Location.of(unit.uri).read_bytes()
    ids = Location.of(unit.frame_ids).read_bytes() if unit.frame_ids else b""
    _add(archive, f"{unit.name}.{GAME}", data)
    _add(archive, f"{unit.name}.{ENTRY}", json.dumps(unit.entry).encode())
    if ids:
        _add(archive, f"{unit.name}.{IDS}", ids)


def _close(buffer: io.BytesIO, archive: tarfile.TarFile, target: Location, number: int) -> int:
    archive.close()
    (target / f"shard-{number:06d}.tar").write_bytes(buffer.getvalue())
    return buffer.tell()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))
