"""The parsed layout: a zlib-compressed parquet file per game with one struct column `root`, read straight into NumPy.

Both schema variants met in the wild are read (narrow integers, or float and int64 everywhere), and older files that
lack fields; what a file holds beyond the schema is refused rather than dropped.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldmodel.errors import GameError
from worldmodel.games.absence import find_missing
from worldmodel.games.game import Game, SparseRows, check_column, drop_repeats, stored_type
from worldmodel.schema import PLAYER_FIELDS, PLAYERS, SPARSE, STAGE, Field, Sparse, parsed_type

MAX_GAME_BYTES = 512 * 2**20
"""A game of an hour is about 50 MB; more than this is no game (or a decompression bomb)."""
_PARQUET, _ZLIB = b"PAR1", 0x78


def read_game(data: bytes, md5: str, entry: dict[str, object], frame_ids: bytes | None = None) -> Game:
    """The game in a parsed file's bytes. `frame_ids`: an .npy of int32 (rows,), by which rollback repeats are dropped.

    Raises GameError with a reason that a person understands.
    """
    root = read_root(data)
    game = replace(_game_of(root, entry), md5=md5)
    return game if frame_ids is None else drop_repeats(game, _load_ids(frame_ids))


def read_root(data: bytes) -> pa.StructArray:
    """The struct array of T frames in a parsed file's bytes."""
    raw = _decompress(data)
    try:
        table = pq.read_table(io.BytesIO(raw))
    except (pa.ArrowException, OSError) as error:
        raise GameError(f"not a parquet file: {_first_line(error)}") from error
    if "root" not in table.column_names:
        raise GameError(f"no column 'root'; the file has {', '.join(table.column_names) or 'none'}")
    root = table.column("root").combine_chunks()
    root = root.combine_chunks() if isinstance(root, pa.ChunkedArray) else root
    if not pa.types.is_struct(root.type):
        raise GameError(f"column 'root' holds {root.type}, expected a struct of players and stage")
    if not len(root):
        raise GameError("zero frames")
    return root


def _decompress(data: bytes) -> bytes:
    if data[:4] == _PARQUET:
        return data
    if not data:
        raise GameError("empty file")
    if data[0] != _ZLIB:
        raise GameError(f"neither zlib nor parquet: it begins with {data[:4]!r}")
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(data, MAX_GAME_BYTES)
    except zlib.error as error:
        raise GameError(f"damaged zlib data: {error}") from error
    if stream.unconsumed_tail:
        raise GameError(f"more than {MAX_GAME_BYTES >> 20} MiB once decompressed: no game is that long")
    if not stream.eof:
        raise GameError("truncated: the zlib stream ends early")
    return raw


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _load_ids(data: bytes) -> np.ndarray:
    try:
        return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
    except (ValueError, OSError) as error:
        raise GameError(f"its frame ids cannot be read: {_first_line(error)}") from error


def _game_of(root: pa.StructArray, entry: dict[str, object]) -> Game:
    _refuse_unknown(root.type, parsed_type(), "")
    columns: dict[tuple[int, str], np.ndarray] = {}
    absent: set[str] = set()
    for player in range(PLAYERS):
        for field in PLAYER_FIELDS:
            column = _column(root, (f"p{player}", *field.column))
            if column is None:
                absent.add(_note_absent(field, player, root.type))
                columns[player, field.name] = np.zeros(len(root), dtype=stored_type(field))
            else:
                columns[player, field.name] = check_column(field, player, column)
    sparse = {group.name: _sparse_rows(root, group) for group in SPARSE}
    absent |= {name for name, rows in sparse.items() if rows is None}
    return Game(
        md5="",
        stage=_stage(root),
        columns=columns,
        sparse={name: rows for name, rows in sparse.items() if rows is not None and len(rows.frames)},
        absent=frozenset(absent),
        missing=find_missing(columns, frozenset(absent), entry),
        entry=entry,
    )


def _refuse_unknown(found: pa.DataType, known: pa.DataType, where: str) -> None:
    for child in found:
        path = f"{where}{child.name}"
        index = known.get_field_index(child.name)
        if index < 0:
            raise GameError(f"unknown column {path!r}: the schema has no such field")
        if pa.types.is_struct(child.type) != pa.types.is_struct(known.field(index).type):
            raise GameError(f"column {path!r} holds {child.type}, expected {known.field(index).type}")
        if pa.types.is_struct(child.type):
            _refuse_unknown(child.type, known.field(index).type, f"{path}.")


def _note_absent(field: Field, player: int, found: pa.DataType) -> str:
    if found.get_field_index(f"p{player}") < 0:
        players = [f"p{p}" for p in range(PLAYERS) if found.get_field_index(f"p{p}") >= 0]
        raise GameError(f"no player p{player}: the file has {', '.join(players) or 'no player'}, expected two")
    if field.core:
        raise GameError(f"no column p{player}.{'.'.join(field.column)}")
    return f"p{player}.{field.name}"


def _column(root: pa.StructArray, path: tuple[str, ...]) -> np.ndarray | None:
    """Values (T,) of the leaf at `path`, or None where the file has no such column."""
    array: pa.Array = root
    for part in path:
        if array.null_count:
            raise GameError(f"{'.'.join(path)} has {array.null_count} null values")
        index = array.type.get_field_index(part)
        if index < 0:
            return None
        array = array.field(index)
    if array.null_count:
        raise GameError(f"{'.'.join(path)} has {array.null_count} null values")
    values: np.ndarray = array.to_numpy(zero_copy_only=False)
    if values.dtype.kind not in "biuf":
        raise GameError(f"{'.'.join(path)} holds {array.type}, expected numbers")
    return values


def _stage(root: pa.StructArray) -> int:
    values = _column(root, (STAGE.name,))
    if values is None:
        raise GameError("no column stage")
    if values.min() != values.max():
        raise GameError(f"the stage changes within the game (from {values[0]} to {values[values != values[0]][0]})")
    stage = int(values[0])
    if not 0 <= stage <= np.iinfo(STAGE.storage.value).max:
        raise GameError(f"stage holds {stage}, outside its storage type {STAGE.storage.value}")
    return stage


def _sparse_rows(root: pa.StructArray, group: Sparse) -> SparseRows | None:
    """Rows of a group where any value's bits are not zero; None where the file has no such group."""
    frames, slots = [], []
    parts: dict[str, list[np.ndarray]] = {name: [] for name, _ in group.fields}
    found = False
    for slot, path in enumerate(group.paths):
        values = {name: _sparse_values(root, group, path, name, kind) for name, kind in group.fields}
        if all(v is None for v in values.values()):
            continue
        found = True
        full = {
            name: np.zeros(len(root), kind) if v is None else v
            for (name, kind), v in zip(group.fields, values.values(), strict=True)
        }
        rows = np.flatnonzero(np.logical_or.reduce([_bits(v) != 0 for v in full.values()]))
        frames.append(rows)
        slots.append(np.full(len(rows), slot, dtype=np.uint8))
        for name, column in full.items():
            parts[name].append(column[rows])
    if not found:
        return None
    frame, slot_of = np.concatenate(frames), np.concatenate(slots)
    order = np.lexsort((slot_of, frame))
    return SparseRows(
        frames=frame[order].astype(np.int32),
        slots=slot_of[order],
        values={name: np.concatenate(column)[order] for name, column in parts.items()},
    )


def _sparse_values(
    root: pa.StructArray, group: Sparse, path: tuple[str, ...], name: str, kind: str
) -> np.ndarray | None:
    values = _column(root, (*path, name))
    if values is None:
        return None
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise GameError(f"{'.'.join(path)}.{name} has non-finite values")
    kept = values.astype(np.dtype(kind))
    if not np.array_equal(kept.astype(values.dtype), values):
        raise GameError(f"{'.'.join(path)}.{name} holds a value outside its storage type {kind}")
    return kept


def _bits(values: np.ndarray) -> np.ndarray:
    return values.view(np.uint32) if values.dtype == np.float32 else values
