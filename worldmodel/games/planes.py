"""A game's columns stacked by storage type: one call then reads, checks or packs many of them.

A plane is (columns, T): each column lies in one piece. Columns that a tight layout stores alike stand together, so that
they are packed as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from worldmodel.schema import PLAYER_FIELDS, PLAYERS, Field, Storage

Place = tuple[int, Field]
"""A player and one of its fields."""
Columns = Mapping[tuple[int, str], np.ndarray]
"""(player, field name) to values (T,)."""


@cache
def list_places(storage: Storage) -> tuple[Place, ...]:
    """What each row of a plane holds. Flags of eight bits, each a byte, come before single flags."""
    places = [(player, field) for player in range(PLAYERS) for field in PLAYER_FIELDS if field.storage is storage]
    return tuple(sorted(places, key=lambda place: (-place[1].bits, place[1].tight or "", place[1].code or "")))


@cache
def _list_keys(storage: Storage) -> list[tuple[int, str]]:
    return [(player, field.name) for player, field in list_places(storage)]


@cache
def find_rows() -> dict[tuple[int, str], tuple[Storage, int]]:
    """(player, field name) to its plane and its row there."""
    return {(p, f.name): (storage, row) for storage in Storage for row, (p, f) in enumerate(list_places(storage))}


def plane_type(storage: Storage) -> np.dtype:
    """NumPy type of a plane; flags are bytes."""
    return np.dtype(np.uint8 if storage is Storage.BIT else storage.value)


def stored_type(field: Field) -> np.dtype:
    """NumPy type of a field's column: flags are bool, eight packed flags uint8."""
    return np.dtype(bool) if field.storage is Storage.BIT and field.bits == 1 else plane_type(field.storage)


@dataclass(frozen=True)
class Planes:
    """All columns of both players in T frames."""

    values: dict[Storage, np.ndarray]
    """(columns, T) of each storage type, ordered as `list_places` says."""

    @classmethod
    def allocate(cls, frames: int) -> Planes:
        """Planes whose values are still to be written."""
        return cls({s: np.empty((len(list_places(s)), frames), dtype=plane_type(s)) for s in Storage})

    @classmethod
    def of(cls, columns: Columns) -> Planes:
        """The planes of columns that are in their storage type already."""
        planes = cls.allocate(len(next(iter(columns.values()))))
        for key, (storage, row) in find_rows().items():
            planes.values[storage][row] = columns[key]
        return planes

    @property
    def frames(self) -> int:
        """T."""
        return int(self.values[Storage.FLOAT32].shape[1])

    def column(self, player: int, name: str) -> np.ndarray:
        """One field's values (T,), a view in the field's type."""
        storage, row = find_rows()[player, name]
        values: np.ndarray = self.values[storage][row]
        return values.view(bool) if list_places(storage)[row][1].bits == 1 and storage is Storage.BIT else values

    @cached_property
    def columns(self) -> Columns:
        """Every column, as views."""
        return {(player, field.name): self.column(player, field.name) for player, field in _walk_places()}

    @cached_property
    def bounds(self) -> Mapping[tuple[int, str], tuple[float, float]]:
        """(player, field name) to the smallest and the largest value; not a number where a value is none."""
        found: dict[tuple[int, str], tuple[float, float]] = {}
        for storage, plane in self.values.items():
            low, high = (bound.astype(np.float64).tolist() for bound in (plane.min(axis=1), plane.max(axis=1)))
            found.update(zip(_list_keys(storage), zip(low, high, strict=True), strict=True))
        return found

    def is_same(self, other: Planes) -> bool:
        """Whether both hold the same bits (so that -0.0 differs from 0.0)."""
        return all(has_same_bits(plane, other.values[storage]) for storage, plane in self.values.items())


@cache
def _walk_places() -> tuple[Place, ...]:
    return tuple((player, field) for player in range(PLAYERS) for field in PLAYER_FIELDS)


def view_bits(values: np.ndarray) -> np.ndarray:
    """Floats as unsigned integers of the same bits; other types as they are."""
    return values.view(f"u{values.itemsize}") if values.dtype.kind == "f" else values


def has_same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays of one type hold the same bits (so that -0.0 differs from 0.0)."""
    return a.dtype == b.dtype and a.shape == b.shape and bool((view_bits(a) == view_bits(b)).all())
