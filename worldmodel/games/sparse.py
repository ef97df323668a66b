"""Sparse groups (items, Nana, moving platforms): of their columns only the rows in which anything stands."""

from __future__ import annotations

from functools import cache

import numpy as np

from worldmodel.errors import GameError
from worldmodel.games.game import SparseRows
from worldmodel.games.leaves import ColumnPath, Leaves
from worldmodel.games.planes import view_bits
from worldmodel.schema import Sparse


def read_sparse(leaves: Leaves, group: Sparse, kept: np.ndarray | None) -> SparseRows | None:
    """Rows of a group where any value's bits are not zero; None where the file has no such group.

    `kept`: the file's row of each frame; None: every row is a frame.
    """
    slots, frames, parts = [], [], []
    is_there = False
    for slot, columns in enumerate(_list_columns(group)):
        present = [path for path, _ in columns if path in leaves]
        is_there |= bool(present)
        filled = [path for path in present if not leaves.is_zero(path)]
        if filled:
            slots.append(slot)
            frames.append(_find_frames(leaves, filled, kept))
            rows = frames[-1] if kept is None else kept[frames[-1]]
            parts.append([_take(leaves, path, rows, kind) for path, kind in columns])
    return _join(group, slots, frames, parts) if is_there else None


@cache
def _list_columns(group: Sparse) -> list[list[tuple[ColumnPath, str]]]:
    """Path and storage type of each value, slot by slot."""
    return [[((*path, name), kind) for name, kind in group.fields] for path in group.paths]


def _join(group: Sparse, slots: list[int], frames: list[np.ndarray], parts: list[list[np.ndarray]]) -> SparseRows:
    """The rows of some slots in one, ordered by frame, then slot."""
    if not slots:
        values = {name: np.zeros(0, dtype=kind) for name, kind in group.fields}
        return SparseRows(frames=np.zeros(0, dtype=np.int32), slots=np.zeros(0, dtype=np.uint8), values=values)
    frame = np.concatenate(frames)
    slot = np.repeat(np.array(slots, dtype=np.uint8), [len(found) for found in frames])
    order = np.argsort(frame * len(group.paths) + slot, kind="stable")  # joins runs that are in order already
    columns = zip(group.fields, zip(*parts, strict=True), strict=True)
    return SparseRows(
        frames=frame[order].astype(np.int32),
        slots=slot[order],
        values={name: np.concatenate(column)[order] for (name, _), column in columns},
    )


def _find_frames(leaves: Leaves, filled: list[ColumnPath], kept: np.ndarray | None) -> np.ndarray:
    """Frames (R,) in which one of a slot's columns is not zero."""
    is_filled = np.logical_or.reduce([view_bits(leaves[path]) != 0 for path in filled])
    return np.flatnonzero(is_filled if kept is None else is_filled[kept])


def _take(leaves: Leaves, path: ColumnPath, rows: np.ndarray, kind: str) -> np.ndarray:
    """A column's values in some rows, in its storage type; zeros where the file lacks it."""
    if path not in leaves:
        return np.zeros(len(rows), dtype=kind)
    values: np.ndarray = leaves[path][rows]
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise GameError(f"{'.'.join(path)} has non-finite values")
    if values.dtype == kind:
        return values
    with np.errstate(invalid="ignore", over="ignore"):
        stored: np.ndarray = values.astype(np.dtype(kind))
    if not np.array_equal(stored.astype(np.float64), values.astype(np.float64)):
        raise GameError(f"{'.'.join(path)} holds a value outside its storage type {kind}")
    return stored
