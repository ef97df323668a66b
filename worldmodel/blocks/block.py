"""A block: some games' frames in one Arrow IPC file, memory-mapped when read.

Columns: one fixed-size list per storage type (see `layout.py`), and a list of structs per sparse group that has rows.
The file's metadata names the schema, the layout and the games, so that a block explains itself without its index.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from xxhash import xxh3_128

from worldmodel.blocks.index import GameEntry
from worldmodel.blocks.layout import Layout, Matrices, layout_named
from worldmodel.errors import UserError
from worldmodel.games.game import Game, SparseRows
from worldmodel.games.leaves import explain
from worldmodel.games.planes import plane_type
from worldmodel.schema import SPARSE, Sparse, Storage, schema_hash
from worldmodel.storage import Location

FORMAT = 2
METADATA_KEY = b"worldmodel"
_DAMAGE = (pa.ArrowException, OSError, LookupError, ValueError, TypeError, RecursionError)
"""What pyarrow raises on damaged files, and json on what such a file says of itself."""


@dataclass(frozen=True, kw_only=True)
class PackedGame:
    """A game in a layout's matrices."""

    md5: str
    stage: int
    layout: str
    matrices: Matrices
    sparse: dict[str, SparseRows]

    @property
    def frames(self) -> int:
        """T."""
        return len(self.matrices[Storage.FLOAT32])

    def digest(self) -> str:
        """32 hex digits of all its values; they tell games apart, and prove nothing against an adversary."""
        found = xxh3_128(f"{self.layout} {self.stage}".encode())
        for storage in Storage:
            found.update(np.ascontiguousarray(self.matrices[storage]).data)
        for name, rows in sorted(self.sparse.items()):
            found.update(name.encode())
            for values in (rows.frames, rows.slots, *rows.values.values()):
                found.update(np.ascontiguousarray(values).data)
        return str(found.hexdigest())


@dataclass(frozen=True, kw_only=True)
class SparseColumn:
    """A sparse group of a block: rows `offsets[t]:offsets[t + 1]` belong to frame t."""

    offsets: np.ndarray
    """int32 (T + 1,)."""
    slots: np.ndarray
    """uint8 (R,)."""
    values: dict[str, np.ndarray]
    """Value name to (R,)."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block opened for reading: views into the mapped file, nothing copied."""

    layout: Layout
    games: list[dict[str, Any]]
    """md5, frames and stage of each game, in the order of their rows."""
    matrices: Matrices
    sparse: dict[str, SparseColumn] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> Block:
        """Map a block file. UserError where it is cut short, hostile, of another schema or no block."""
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            batch = reader.get_batch(0)
            batch.validate(full=True)  # Arrow believes what a file claims of its buffers; reading them ends the process
            about = dict(json.loads((reader.schema.metadata or {}).get(METADATA_KEY, b"{}")))
            if about.get("format") == FORMAT and about.get("schema_hash") == schema_hash():
                return cls._of(batch, about)
        except _DAMAGE as error:
            raise UserError(f"block {path} cannot be read ({explain(error)}); encode its games again") from error
        raise UserError(
            f"block {path} is of format {about.get('format')} and schema {about.get('schema_hash')}, this version "
            f"reads format {FORMAT} and schema {schema_hash()}; encode its games again"
        )

    @classmethod
    def _of(cls, batch: pa.RecordBatch, about: dict[str, Any]) -> Block:
        layout, groups = layout_named(about["layout"]), [group for group in SPARSE if group.name in batch.schema.names]
        _check_types(batch.schema, layout, groups)
        frames = [int(game["frames"]) for game in about["games"]]
        if sum(frames) != batch.num_rows or min(frames, default=0) < 0:
            raise ValueError(f"its games have {frames} frames, it has {batch.num_rows}")
        matrices = {s: _matrix(batch.column(s.value), layout.width(s)) for s in Storage}
        sparse = {group.name: _sparse_column(batch.column(group.name)) for group in groups}
        return cls(layout=layout, games=about["games"], matrices=matrices, sparse=sparse)

    def game(self, number: int) -> PackedGame:
        """The packed game at a place in the block (views)."""
        start = sum(int(g["frames"]) for g in self.games[:number])
        about = self.games[number]
        stop = start + int(about["frames"])
        return PackedGame(
            md5=str(about["md5"]), stage=int(about["stage"]), layout=self.layout.name,
            matrices={s: m[start:stop] for s, m in self.matrices.items()},
            sparse={name: _rows_between(column, start, stop) for name, column in self.sparse.items()},
        )  # fmt: skip


def _check_types(schema: pa.Schema, layout: Layout, groups: list[Sparse]) -> None:
    """ValueError where a column has another type than the schema's."""
    expected = {s.value: pa.list_(pa.from_numpy_dtype(plane_type(s)), layout.width(s)) for s in Storage}
    for group in groups:
        fields = [("slot", pa.uint8()), *((name, pa.type_for_alias(kind)) for name, kind in group.fields)]
        expected[group.name] = pa.list_(pa.struct(fields))
    for name, kind in expected.items():
        if schema.field(name).type != kind:
            raise ValueError(f"its column {name} holds {schema.field(name).type}, expected {kind}")


def _matrix(column: pa.FixedSizeListArray, width: int) -> np.ndarray:
    values: np.ndarray = column.flatten().to_numpy(zero_copy_only=True)
    return values.reshape(-1, width)


def _sparse_column(column: pa.ListArray) -> SparseColumn:
    rows = column.values
    names = [f.name for f in rows.type if f.name != "slot"]
    return SparseColumn(
        offsets=column.offsets.to_numpy(),
        slots=rows.field("slot").to_numpy(),
        values={name: rows.field(name).to_numpy(zero_copy_only=False) for name in names},
    )


def _rows_between(column: SparseColumn, start: int, stop: int) -> SparseRows:
    first, last = column.offsets[start], column.offsets[stop]
    frames = np.repeat(np.arange(stop - start, dtype=np.int32), np.diff(column.offsets[start : stop + 1]))
    values = {name: v[first:last] for name, v in column.values.items()}
    return SparseRows(frames=frames, slots=column.slots[first:last], values=values)


def read_stored_games(folder: Location, entries: Iterable[GameEntry]) -> Iterator[Game]:
    """The games that `entries` of an index name, decoded from their blocks, block by block."""
    by_block: dict[str, list[GameEntry]] = {}
    for entry in entries:
        by_block.setdefault(entry.block, []).append(entry)
    for name, stored in by_block.items():
        with local_copy(folder / name) as path:
            block = Block.open(path)
            places = {str(about["md5"]): number for number, about in enumerate(block.games)}
            for entry in stored:
                yield unpack_game(block.game(places[entry.md5]), entry)


def unpack_game(packed: PackedGame, entry: GameEntry) -> Game:
    """The game as its reader yielded it."""
    return Game(
        md5=packed.md5, stage=packed.stage, planes=layout_named(packed.layout).unpack(packed.matrices),
        sparse={name: rows for name, rows in packed.sparse.items() if len(rows.frames)},
        absent=frozenset(entry.absent), missing=frozenset(entry.missing), repeats=entry.repeats,
    )  # fmt: skip


@contextmanager
def local_copy(location: Location) -> Iterator[Path]:
    """A file's local path: its own, or a temporary download."""
    path = location.local_path()
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="worldmodel-") as folder:
        location.copy_to(Path(folder) / location.name)
        yield Path(folder) / location.name
