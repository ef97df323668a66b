"""Writes the parsed layout: `OUT/games/<md5>` (zlib over parquet, one struct column `root`) and `OUT/meta.json`.

The layout is slippi-ai's (`slippi_db`) and the users'. Two additions, both invisible to their readers: a field that a
replay lacks has no column (instead of zeros) and is named in `missing_fields`, and every game file carries its own
entry of `meta.json`, so an interrupted run loses nothing.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldmodel.errors import GameError, UserError
from worldmodel.schema import PLAYER_FIELDS, PLAYERS, SPARSE, parsed_type

ColumnPath = tuple[str, ...]
Columns = Mapping[ColumnPath, "np.ndarray | pa.Array"]

FIRST_FRAME_ID = -123
"""Slippi numbers frames from here; players can act from frame 0 on."""
_ENTRY_KEY = b"worldmodel.entry"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What `meta.json` says about one game. Key names are the users'."""

    name: str
    """File name of the replay."""
    slp_md5: str
    """md5 of the uncompressed replay (32 hex digits); the game's file name."""
    slp_size: int
    """Bytes of the uncompressed replay."""
    lastFrame: int
    """Number of rows (the users' name for it); each is a frame of the game, repeats are gone."""
    players: tuple[dict[str, int], ...]
    """Port (0..3) and character id (the one played most) of each player, lower port first."""
    stage: int
    game_end_method: int
    """1 time, 2 game, 3 resolved, 7 no contest (a player quit)."""
    source: str
    """Where the replay lay, relative to the parsed folder."""
    slippi_version: str
    start_stocks: int
    dropped_repeats: int = 0
    """Rows of the replay that a rollback replaced and that were left out."""
    played_on: str | None = None
    lras: str = "None"
    """Port of the player that quit."""
    is_pal: bool = False
    num_players: int = PLAYERS
    valid: bool = True
    is_training: bool = True
    not_training_reason: str = ""
    compression: str = "zlib"
    pq_size: int = 0
    """Bytes of the game file; the writer fills it in."""
    start_key: str = ""
    """Fingerprint of the replay's start block, by which edited copies of one game are found; empty: no replay."""
    missing_fields: tuple[str, ...] = ()
    """Schema names of fields and sparse groups that have no column; the writer fills it in."""

    @property
    def as_json(self) -> dict[str, Any]:
        """The entry as `meta.json` holds it."""
        found = asdict(self)
        derived = {
            "num_frames": self.lastFrame,
            "unique_frames": self.lastFrame,
            "rollback_dup_frames": 0,
            "ports": [player["port"] for player in self.players],
        }
        return json.loads(json.dumps(found | derived))  # type: ignore[no-any-return]


def assemble_frames(columns: Columns) -> pa.StructArray:
    """The frames of a game as the struct `root`, from values (rows,) under their paths (`("p0", "x")`).

    A path without values has no column. Raises GameError where a value does not fit its type or a path is unknown.
    """
    known = leaf_types()
    unknown = [path for path in columns if path not in known]
    if unknown:
        raise GameError(f"no such column in the parsed layout: {'.'.join(unknown[0])}")
    found = _assemble(parsed_type(), (), columns)
    if found is None:
        raise GameError("a game without any column")
    return found


def _assemble(kind: pa.DataType, at: ColumnPath, columns: Columns) -> pa.Array | None:
    if not pa.types.is_struct(kind):
        return _leaf(kind, at, columns[at]) if at in columns else None
    children = {field.name: _assemble(field.type, (*at, field.name), columns) for field in kind}
    present = {name: child for name, child in children.items() if child is not None}
    return pa.StructArray.from_arrays(list(present.values()), names=list(present)) if present else None


def _leaf(kind: pa.DataType, path: ColumnPath, values: np.ndarray | pa.Array) -> pa.Array:
    try:
        found = values.cast(kind) if isinstance(values, pa.Array) else pa.array(values, type=kind)
    except pa.ArrowInvalid as error:
        raise GameError(f"column {'.'.join(path)} holds a value outside {kind}: {error}") from error
    if found.null_count:
        raise GameError(f"column {'.'.join(path)} has no value in {found.null_count} of {len(found)} rows")
    return found


@cache
def leaf_types() -> dict[ColumnPath, pa.DataType]:
    """Arrow type of every column of the parsed layout, by path under `root`."""
    return _leaves(parsed_type(), ())


def _leaves(kind: pa.DataType, at: ColumnPath) -> dict[ColumnPath, pa.DataType]:
    if not pa.types.is_struct(kind):
        return {at: kind}
    found: dict[ColumnPath, pa.DataType] = {}
    for field in kind:
        found |= _leaves(field.type, (*at, field.name))
    return found


def list_missing(frames: pa.StructArray) -> tuple[str, ...]:
    """Schema names of the player fields and sparse groups that lack a column for some player or slot."""
    present = _leaves(frames.type, ()).keys()
    fields = [
        field.name
        for field in PLAYER_FIELDS
        if any((f"p{player}", *field.column) not in present for player in range(PLAYERS))
    ]
    groups = [
        group.name
        for group in SPARSE
        if any((*path, name) not in present for path in group.paths for name, _ in group.fields)
    ]
    return (*fields, *groups)


def write_parsed(
    out: Path, frames: pa.StructArray, entry: Entry, frame_ids: np.ndarray | None = None
) -> dict[str, Any]:
    """Write one game and return its entry for `write_meta`.

    `frame_ids` (rows,) int32 are kept in `OUT/frame_ids/<md5>.npy` where given. Each file appears whole or not at all.
    """
    if len(frames) != entry.lastFrame:
        raise GameError(f"{len(frames)} rows, but the entry says {entry.lastFrame}")
    entry = replace(entry, missing_fields=list_missing(frames))
    packed = _pack(frames, entry)
    if frame_ids is not None:
        buffer = io.BytesIO()
        np.save(buffer, frame_ids.astype(np.int32, copy=False), allow_pickle=False)
        write_whole(out / "frame_ids" / f"{entry.slp_md5}.npy", buffer.getvalue())
    write_whole(out / "games" / entry.slp_md5, packed)
    return replace(entry, pq_size=len(packed)).as_json


def _pack(frames: pa.StructArray, entry: Entry) -> bytes:
    schema = pa.schema([("root", frames.type)], metadata={_ENTRY_KEY: json.dumps(entry.as_json)})
    buffer = io.BytesIO()
    pq.write_table(pa.table([frames], schema=schema), buffer, compression="snappy")
    return zlib.compress(buffer.getvalue())


def write_meta(out: Path, entries: Iterable[dict[str, Any]]) -> None:
    """Write `OUT/meta.json`, ordered by md5: the last thing that a finished run writes."""
    ordered = sorted(entries, key=lambda entry: str(entry["slp_md5"]))
    write_whole(out / "meta.json", json.dumps(ordered, indent=1).encode())


def read_entries(out: Path) -> dict[str, dict[str, Any]]:
    """Entries by md5 of the games that OUT holds already: from `meta.json`, else from the game files themselves.

    A game file that is named in neither (of another writer, or damaged) does not count as there.
    """
    listed = _read_meta(out / "meta.json")
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((out / "games").glob("[!.]*")) if (out / "games").is_dir() else []:
        entry = listed.get(path.name) or _read_entry(path)
        if entry is not None:
            found[path.name] = entry
    return found


def _read_meta(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    try:
        return {str(entry["slp_md5"]): entry for entry in json.loads(path.read_text())}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a list of games ({error}). Move it away or choose another output folder."
        ) from error


def _read_entry(path: Path) -> dict[str, Any] | None:
    try:
        packed = path.read_bytes()
        schema = pq.read_schema(io.BytesIO(zlib.decompress(packed)))
    except (OSError, zlib.error, pa.ArrowInvalid):
        return None
    stored = (schema.metadata or {}).get(_ENTRY_KEY)
    entry: dict[str, Any] | None = json.loads(stored) if stored else None
    if entry is None or entry.get("slp_md5") != path.name:
        return None
    return entry | {"pq_size": len(packed)}


def open_output(out: Path) -> None:
    """Make OUT and its `games` folder, or raise UserError where that cannot be."""
    try:
        (out / "games").mkdir(parents=True, exist_ok=True)
        write_whole(out / "games" / ".writable", b"")
        (out / "games" / ".writable").unlink()
    except OSError as error:
        raise UserError(
            f"cannot write into {out}: {error.strerror or error}. Choose a folder that you may write."
        ) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it appears complete or not at all, even if the machine stops."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
