"""The parsed layout: a zlib-compressed parquet file per game with one struct column `root`, read straight into NumPy.

Both schema variants met in the wild are read (narrow integers, or float and int64 everywhere), and older files that
lack fields; what a file holds beyond the schema is refused rather than dropped.
"""

from __future__ import annotations

import io

import numpy as np

from worldmodel.errors import GameError
from worldmodel.games.absence import find_missing
from worldmodel.games.game import Game, SparseRows, check_column, drop_repeats, stored_type
from worldmodel.games.leaves import ColumnPath, Leaves, explain, read_leaves, view_bits
from worldmodel.schema import PLAYER_FIELDS, PLAYERS, SPARSE, STAGE, Field, Sparse


def read_game(data: bytes, md5: str, entry: dict[str, object], frame_ids: bytes | None = None) -> Game:
    """The game in a parsed file's bytes. `frame_ids`: an .npy of int32 (rows,), by which rollback repeats are dropped.

    Raises GameError with a reason that a person understands.
    """
    leaves = read_leaves(data)
    columns: dict[tuple[int, str], np.ndarray] = {}
    absent: set[str] = set()
    for player in range(PLAYERS):
        for field in PLAYER_FIELDS:
            values = leaves.get((f"p{player}", *field.column))
            if values is None:
                absent.add(_note_absent(field, player, leaves))
                values = np.zeros(leaves.frames, dtype=stored_type(field))
            columns[player, field.name] = check_column(field, player, values)
    sparse = {group.name: _sparse_rows(leaves, group) for group in SPARSE}
    absent |= {name for name, rows in sparse.items() if rows is None}
    game = Game(
        md5=md5,
        stage=_stage(leaves),
        columns=columns,
        sparse={name: rows for name, rows in sparse.items() if rows is not None and len(rows.frames)},
        absent=frozenset(absent),
        missing=find_missing(columns, frozenset(absent), entry),
        entry=entry,
    )
    return game if frame_ids is None else drop_repeats(game, _load_ids(frame_ids))


def _load_ids(data: bytes) -> np.ndarray:
    try:
        ids = np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
    except (ValueError, OSError, EOFError) as error:
        raise GameError(f"its frame ids cannot be read: {explain(error)}") from error
    if ids.dtype.kind not in "iu":
        raise GameError(f"its frame ids hold {ids.dtype}, expected integers")
    return ids


def _note_absent(field: Field, player: int, leaves: Leaves) -> str:
    players = sorted({path[0] for path in leaves if len(path) > 1 and path[0][0] == "p"})
    if f"p{player}" not in players:
        raise GameError(f"no player p{player}: the file has {', '.join(players) or 'no player'}, expected two")
    if field.core:
        raise GameError(f"no column p{player}.{'.'.join(field.column)}")
    return f"p{player}.{field.name}"


def _stage(leaves: Leaves) -> int:
    values = leaves.get((STAGE.name,))
    if values is None:
        raise GameError("no column stage")
    if values.min() != values.max():
        raise GameError(f"the stage changes within the game (from {values[0]} to {values[values != values[0]][0]})")
    stage = values[0]
    if not 0 <= stage <= np.iinfo(STAGE.storage.value).max or int(stage) != stage:
        raise GameError(f"stage holds {stage}, outside its storage type {STAGE.storage.value}")
    return int(stage)


def _sparse_rows(leaves: Leaves, group: Sparse) -> SparseRows | None:
    """Rows of a group where any value's bits are not zero; None where the file has no such group."""
    frames, slots = [np.zeros(0, np.int64)], [np.zeros(0, np.uint8)]
    parts: dict[str, list[np.ndarray]] = {name: [np.zeros(0, kind)] for name, kind in group.fields}
    found = False
    for slot, path in enumerate(group.paths):
        present = [(*path, name) for name, _ in group.fields if leaves.get((*path, name)) is not None]
        found |= bool(present)
        filled = [view_bits(_values(leaves, leaf)) != 0 for leaf in present if not leaves.is_zero(leaf)]
        if not filled:
            continue
        rows = np.flatnonzero(np.logical_or.reduce(filled))
        frames.append(rows)
        slots.append(np.full(len(rows), slot, dtype=np.uint8))
        for name, kind in group.fields:
            parts[name].append(_take(leaves, (*path, name), rows, kind))
    if not found:
        return None
    frame, slot_of = np.concatenate(frames), np.concatenate(slots)
    order = np.lexsort((slot_of, frame))
    return SparseRows(
        frames=frame[order].astype(np.int32),
        slots=slot_of[order],
        values={name: np.concatenate(column)[order] for name, column in parts.items()},
    )


def _values(leaves: Leaves, path: ColumnPath) -> np.ndarray:
    values = leaves.get(path)
    return np.zeros(leaves.frames, dtype=bool) if values is None else values


def _take(leaves: Leaves, path: ColumnPath, rows: np.ndarray, kind: str) -> np.ndarray:
    """Some rows of a column in its storage type; all others are zero."""
    values: np.ndarray = _values(leaves, path)[rows]
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise GameError(f"{'.'.join(path)} has non-finite values")
    if values.dtype == kind:
        return values
    with np.errstate(invalid="ignore", over="ignore"):
        kept: np.ndarray = values.astype(np.dtype(kind))
    if not np.array_equal(kept.astype(np.float64), values.astype(np.float64)):
        raise GameError(f"{'.'.join(path)} holds a value outside its storage type {kind}")
    return kept
