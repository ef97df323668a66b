"""The parsed layout: a zlib-compressed parquet file per game with one struct column `root`, read straight into NumPy.

Both schema variants met in the wild are read (narrow integers, or float and int64 everywhere), and older files that
lack fields; what a file holds beyond the schema is refused rather than dropped.
"""

from __future__ import annotations

import io
import math
import re
from functools import cache
from tokenize import TokenError

import numpy as np

from worldmodel.errors import GameError
from worldmodel.games.absence import find_missing
from worldmodel.games.entry import find_stage
from worldmodel.games.game import Game, check_column
from worldmodel.games.leaves import ColumnPath, Leaves, explain, read_leaves
from worldmodel.games.planes import Planes, list_places, stored_type
from worldmodel.games.repeats import describe_dropped, find_last_rows
from worldmodel.games.sparse import read_sparse
from worldmodel.schema import SPARSE, STAGE, Field, Storage


def read_game(data: bytes, md5: str, entry: dict[str, object], frame_ids: bytes | None = None) -> Game:
    """The game in a parsed file's bytes. `frame_ids`: an .npy of int32 (rows,), by which rollback repeats are dropped.

    Raises GameError with a reason that a person understands.
    """
    leaves = read_leaves(data)
    kept = find_last_rows(_load_ids(frame_ids), leaves.frames) if frame_ids is not None else None
    planes, lacking = _fill_planes(leaves, kept)
    sparse = {group.name: read_sparse(leaves, group, kept) for group in SPARSE}
    absent = lacking | {name for name, rows in sparse.items() if rows is None}
    return Game(
        md5=md5,
        stage=find_stage(_stage(leaves), entry),
        planes=planes,
        sparse={name: rows for name, rows in sparse.items() if rows is not None and len(rows.frames)},
        absent=absent,
        missing=find_missing(planes, absent, entry),
        repeats="unknown" if frame_ids is None else describe_dropped(kept, leaves.frames),
        entry=entry,
    )


def _fill_planes(leaves: Leaves, kept: np.ndarray | None) -> tuple[Planes, frozenset[str]]:
    """The fields of both players in the rows that are kept (None: all), and the names of those that have no column."""
    planes = Planes.allocate(leaves.frames if kept is None else len(kept))
    absent: set[str] = set()
    for storage, plane in planes.values.items():
        for target, (player, field, path, kind) in zip(plane, _list_columns(storage), strict=True):
            values = leaves.get(path)
            if values is None:
                absent.add(_note_absent(field, player, leaves))
                target[:] = 0
                continue
            found = values if kept is None else values.take(kept)
            target[:] = found if found.dtype == kind else check_column(field, player, found)
    for player, field in list_places(Storage.FLOAT32):  # NaN and infinity show in the bounds
        if not all(map(math.isfinite, planes.bounds[player, field.name])):
            check_column(field, player, planes.column(player, field.name))
    return planes, frozenset(absent)


@cache
def _list_columns(storage: Storage) -> list[tuple[int, Field, ColumnPath, np.dtype]]:
    """Player, field, path in the file and type of each row of a plane."""
    return [(p, field, (f"p{p}", *field.column), stored_type(field)) for p, field in list_places(storage)]


_IDS_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '<i4', 'fortran_order': False, 'shape': \((\d+),\), \} *\n", re.DOTALL
)
"""What numpy writes before a row of int32; its own reader parses it as Python."""


_DAMAGED_IDS = (ValueError, OSError, EOFError, TypeError, MemoryError, TokenError, RecursionError)
"""What numpy raises on damaged ids: it reads their header as Python and believes any shape."""


def _load_ids(data: bytes) -> np.ndarray:
    header = _IDS_HEADER.match(data)
    if header and len(data) - header.end() == 4 * int(header[1]):
        return np.frombuffer(data, dtype="<i4", offset=header.end())
    try:
        ids = np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
    except _DAMAGED_IDS as error:
        raise GameError(f"its frame ids cannot be read: {explain(error)}") from error
    if ids.dtype.kind not in "iu":
        raise GameError(f"its frame ids hold {ids.dtype}, expected integers")
    return ids


def _note_absent(field: Field, player: int, leaves: Leaves) -> str:
    players = sorted({path[0] for path in leaves if len(path) > 1 and path[0][0] == "p"})
    if f"p{player}" not in players:
        raise GameError(f"no P{player + 1}: the file has {', '.join(players) or 'no player'}, expected p0 and p1")
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
