"""Where each field lies in a block's fixed-width columns, and the lossless way there and back.

A block keeps one matrix per storage type (frames x width): a batch is then a handful of gathers, not seventy. Two
layouts exist. *Tight* keeps percent, hitlag, stocks and combo count as small integers and analog inputs as indices
into the console's own steps: nearly every game fits. *Wide* keeps them in the type that holds any value. A game goes
into the first layout that reproduces its bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby

import numpy as np

from worldmodel.games.planes import Planes, list_places, plane_type
from worldmodel.schema import PLAYER_FIELDS, PLAYERS, Code, Field, Storage, code_table

Matrices = dict[Storage, np.ndarray]
"""Storage to (T, width); flags are packed to bytes, lowest bit first."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Neighbouring rows of a plane that one layout stores alike."""

    source: Storage
    """The plane."""
    rows: slice
    target: Storage
    """The matrix."""
    columns: tuple[int, ...]
    """Where each row goes in it."""
    code: Code | None
    """The table that the stored value indexes, if any."""

    def encode(self, values: np.ndarray) -> np.ndarray:
        """`values` (rows, T) as they are stored; one that the type cannot hold becomes any other."""
        if self.source is self.target:
            return values
        if self.code:
            table = code_table(self.code)
            values = np.rint((values - table[0]) * np.float32((len(table) - 1) / (table[-1] - table[0])))
        with np.errstate(invalid="ignore"):
            return values.astype(self.target.value)

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """What `encode` was given."""
        return code_table(self.code).take(stored, mode="clip") if self.code else stored


@dataclass(frozen=True)
class Layout:
    """The places of all player fields of both players. `name` is "tight" or "wide"."""

    name: str

    def storage(self, field: Field) -> Storage:
        """The matrix that holds a field."""
        return field.tight if self.name == "tight" and field.tight else field.storage

    def code(self, field: Field) -> Code | None:
        """The table that a field's stored value indexes, if any."""
        return field.code if self.name == "tight" else None

    @cached_property
    def columns(self) -> dict[Storage, tuple[tuple[int, Field], ...]]:
        """Storage to its (player, field) columns. Among the flags, those of eight bits come first: each is a byte."""
        places = [(player, field) for player in range(PLAYERS) for field in PLAYER_FIELDS]
        places.sort(key=lambda place: -place[1].bits)
        return {storage: tuple(place for place in places if self.storage(place[1]) is storage) for storage in Storage}

    @cached_property
    def places(self) -> dict[tuple[int, str], tuple[Storage, int]]:
        """(player, field name) to its storage and its first column (or bit) there."""
        found = {}
        for storage, columns in self.columns.items():
            place = 0
            for player, field in columns:
                found[player, field.name] = (storage, place)
                place += field.bits
        return found

    def width(self, storage: Storage) -> int:
        """Columns of a matrix; for BIT, bytes."""
        count = sum(field.bits for _, field in self.columns[storage])
        return -(-count // 8) if storage is Storage.BIT else count

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame, sparse groups apart."""
        return sum(self.width(s) * (1 if s is Storage.BIT else np.dtype(s.value).itemsize) for s in Storage)

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """How the planes of a game go into the matrices, flags apart."""
        found = []
        for source in (storage for storage in Storage if storage is not Storage.BIT):
            rows = enumerate(list_places(source))
            for (target, code), run in groupby(rows, key=lambda row: (self.storage(row[1][1]), self.code(row[1][1]))):
                places = list(run)
                columns = tuple(self.places[player, field.name][1] for _, (player, field) in places)
                rows_of = slice(places[0][0], places[-1][0] + 1)
                found.append(Run(source=source, rows=rows_of, target=target, columns=columns, code=code))
        return tuple(found)

    def allocate(self, frames: int) -> Matrices:
        """Matrices whose values are still to be written."""
        return {s: np.empty((frames, self.width(s)), dtype=plane_type(s)) for s in Storage}

    def pack(self, planes: Planes, matrices: Matrices) -> bool:
        """Write a game into matrices of its length. False where this layout would change a value.

        What was written is decoded again and compared bit by bit: that alone decides.
        """
        for run in self.runs:
            encoded = run.encode(planes.values[run.source][run.rows])
            for values, column in zip(encoded, run.columns, strict=True):
                matrices[run.target][:, column] = values
        _pack_bits(planes.values[Storage.BIT], matrices[Storage.BIT])
        return self.unpack(matrices).is_same(planes)

    def unpack(self, matrices: Matrices) -> Planes:
        """The planes that `pack` was given, bit for bit."""
        planes = Planes.allocate(len(matrices[Storage.FLOAT32]))
        for run in self.runs:
            rows = planes.values[run.source][run.rows]
            stored = rows if run.source is run.target else np.empty(rows.shape, dtype=run.target.value)
            for values, column in zip(stored, run.columns, strict=True):
                values[:] = matrices[run.target][:, column]
            if stored is not rows:
                rows[:] = run.decode(stored)
        _unpack_bits(matrices[Storage.BIT], planes.values[Storage.BIT])
        return planes


@cache
def layout_named(name: str) -> Layout:
    """The tight or the wide layout."""
    return Layout(name)


LAYOUTS = ("tight", "wide")


def _pack_bits(flags: np.ndarray, packed: np.ndarray) -> None:
    """Write a plane of flags (rows, T) into (T, bytes): rows of eight flags as they are, then the single ones."""
    whole = _count_whole()
    for place, values in enumerate(flags[:whole]):
        packed[:, place] = values
    for place, first in enumerate(range(whole, len(flags), 8), start=whole):
        single = flags[first : first + 8]  # a sum of products: np.packbits across rows takes ten times as long
        packed[:, place] = np.einsum("bt,b->t", single, _WEIGHTS[: len(single)])


def _unpack_bits(packed: np.ndarray, flags: np.ndarray) -> None:
    whole = _count_whole()
    for place, values in enumerate(flags[:whole]):
        values[:] = packed[:, place]
    for place, first in enumerate(range(whole, len(flags), 8), start=whole):
        single = flags[first : first + 8]
        np.not_equal(packed[:, place].copy() & _WEIGHTS[: len(single), None], 0, out=single.view(bool))


_WEIGHTS = np.left_shift(1, np.arange(8)).astype(np.uint8)
"""Of the flags in a byte, lowest bit first."""


@cache
def _count_whole() -> int:
    """Rows of eight flags in a plane; they come first."""
    return sum(field.bits == 8 for _, field in list_places(Storage.BIT))
