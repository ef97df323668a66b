"""Where each field lies in a block's fixed-width columns, and the lossless way there and back.

A block keeps one matrix per storage type (frames x width): a batch is then a handful of gathers, not seventy. Two
layouts exist. *Tight* keeps percent, hitlag, stocks and combo count as small integers and analog inputs as indices
into the console's own steps: nearly every game fits. *Wide* keeps them in the type that holds any value. A game goes
into the first layout that reproduces its bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from worldmodel.games.game import is_same, stored_type
from worldmodel.schema import PLAYER_FIELDS, PLAYERS, Code, Field, Storage, code_table

Columns = dict[tuple[int, str], np.ndarray]
Matrices = dict[Storage, np.ndarray]
"""Storage to (T, width); flags are packed to bytes, lowest bit first."""


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

    def pack(self, columns: Columns) -> Matrices | None:
        """Matrices of a game's columns, or None where this layout would change a value."""
        packed: Matrices = {}
        for storage, places in self.columns.items():
            if storage is Storage.BIT:
                packed[storage] = _pack_bits([columns[player, field.name] for player, field in places])
                continue
            matrix = np.empty((len(columns[0, "x"]), len(places)), dtype=storage.value)
            for number, (player, field) in enumerate(places):
                column = self._encode(field, columns[player, field.name])
                if column is None:
                    return None
                matrix[:, number] = column
            packed[storage] = matrix
        return packed

    def _encode(self, field: Field, values: np.ndarray) -> np.ndarray | None:
        storage = np.dtype(self.storage(field).value)
        if values.dtype == storage:
            return values
        if code := self.code(field):
            return _encode_steps(values, code_table(code))
        limit = np.iinfo(storage).max
        if values.min() < 0 or values.max() > limit:
            return None
        kept = values.astype(storage)
        return kept if is_same(kept.astype(values.dtype), values) else None

    def unpack(self, matrices: Matrices) -> Columns:
        """The columns that `pack` was given, bit for bit."""
        return {place: np.ascontiguousarray(values) for place, values in self.iterate_columns(matrices)}

    def iterate_columns(self, matrices: Matrices) -> Iterator[tuple[tuple[int, str], np.ndarray]]:
        """(player, field name) and values (T,) of every column; views of the matrices where no value is coded."""
        flags = matrices[Storage.BIT].T.copy()  # a byte of flags lies in one piece, and is read up to eight times
        for player in range(PLAYERS):
            for field in PLAYER_FIELDS:
                storage, place = self.places[player, field.name]
                if storage is Storage.BIT:
                    yield (player, field.name), _decode_bits(flags[place // 8], place % 8, field)
                else:
                    yield (player, field.name), self._decode(field, matrices[storage][:, place])

    def _decode(self, field: Field, values: np.ndarray) -> np.ndarray:
        code = self.code(field)
        return code_table(code).take(values) if code else values.astype(stored_type(field), copy=False)


@cache
def layout_named(name: str) -> Layout:
    """The tight or the wide layout."""
    return Layout(name)


LAYOUTS = ("tight", "wide")


def _encode_steps(values: np.ndarray, table: np.ndarray) -> np.ndarray | None:
    """Indices (uint8) into an evenly spaced table, or None where a value is not in it."""
    if values.min() < table[0] or values.max() > table[-1]:
        return None
    steps = np.rint((values - table[0]) * np.float32((len(table) - 1) / (table[-1] - table[0]))).astype(np.uint8)
    return steps if is_same(table.take(steps), values) else None


def _pack_bits(columns: list[np.ndarray]) -> np.ndarray:
    """(T, bytes): columns of eight packed flags as they are, then the single flags, lowest bit first."""
    whole = [values for values in columns if values.dtype == np.uint8]
    single = [values.view(np.uint8) for values in columns if values.dtype == bool]
    packed = np.empty((len(columns[0]), len(whole) + -(-len(single) // 8)), dtype=np.uint8)
    for place, values in enumerate(whole):
        packed[:, place] = values
    for first in range(0, len(single), 8):  # shifts: np.packbits across columns takes five times as long
        packed[:, len(whole) + first // 8] = _join_bits(single[first : first + 8])
    return packed


def _join_bits(flags: list[np.ndarray]) -> np.ndarray:
    """Up to eight columns of zeros and ones (uint8) as one of bytes, lowest bit first."""
    joined = flags[0].copy()
    for bit, values in enumerate(flags[1:], start=1):
        joined |= values << np.uint8(bit)
    return joined


def _decode_bits(values: np.ndarray, bit: int, field: Field) -> np.ndarray:
    return values if field.bits == 8 else (values & np.uint8(1 << bit)) != 0
