"""A block under way: games are packed straight into the block's own columns, which then go to disk without a copy."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from worldmodel.blocks.block import FORMAT, METADATA_KEY, PackedGame
from worldmodel.blocks.layout import Layout
from worldmodel.games.game import Game
from worldmodel.schema import SPARSE, Sparse, schema_hash
from worldmodel.storage import Location, Stream


@dataclass(frozen=True, kw_only=True)
class WrittenBlock:
    """A block file."""

    name: str
    """Named after its bytes."""
    bytes: int
    sha256: str


class BlockBuilder:
    """Collects games of one layout. `capacity`: frames that it takes; memory is used up only as they come."""

    def __init__(self, layout: Layout, capacity: int) -> None:
        self.layout = layout
        self.games: list[PackedGame] = []
        self._capacity, self._filled = capacity, 0
        self._matrices = layout.allocate(capacity)

    @property
    def room(self) -> int:
        """Frames that still fit."""
        return self._capacity - self._filled

    @property
    def bytes(self) -> int:
        """Bytes of the games taken, sparse groups apart."""
        return self._filled * self.layout.frame_bytes

    def add(self, game: Game) -> PackedGame | None:
        """Take a game of at most `room` frames; None where this layout would change one of its values."""
        rows = slice(self._filled, self._filled + game.frames)
        matrices = {storage: matrix[rows] for storage, matrix in self._matrices.items()}
        if not self.layout.pack(game.planes, matrices):
            return None
        packed = PackedGame(
            md5=game.md5, stage=game.stage, layout=self.layout.name, matrices=matrices, sparse=game.sparse
        )
        self.games.append(packed)
        self._filled = rows.stop
        return packed

    def write(self, out: Location) -> WrittenBlock:
        """Write the block into a folder, atomically, under a name that follows from its bytes."""
        table = self._make_table()
        digest = _HashingSink()
        _write_table(table, digest)
        name = f"{digest.sha256.hexdigest()[:20]}.arrow"
        with (out / name).open_output() as stream:
            _write_table(table, stream)
        return WrittenBlock(name=name, bytes=digest.bytes, sha256=digest.sha256.hexdigest())

    def _make_table(self) -> pa.Table:
        arrays: dict[str, pa.Array] = {}
        for storage, matrix in self._matrices.items():
            values = pa.array(matrix[: self._filled].reshape(-1))
            arrays[storage.value] = pa.FixedSizeListArray.from_arrays(values, self.layout.width(storage))
        for group in SPARSE:
            if any(group.name in game.sparse for game in self.games):
                arrays[group.name] = _make_sparse_array(group, self.games)
        about = {
            "format": FORMAT, "schema_hash": schema_hash(), "layout": self.layout.name,
            "games": [{"md5": g.md5, "frames": g.frames, "stage": g.stage} for g in self.games],
        }  # fmt: skip
        return pa.table(arrays).replace_schema_metadata({METADATA_KEY: json.dumps(about)})


class _HashingSink:
    """A file that keeps the sha256 and the number of the bytes written to it."""

    closed = False

    def __init__(self) -> None:
        self.sha256, self.bytes = hashlib.sha256(), 0

    def write(self, data: bytes | pa.Buffer) -> int:
        """Count some bytes."""
        self.sha256.update(data)
        self.bytes += len(data)
        return len(data)

    def flush(self) -> None:
        """Nothing waits."""


def _write_table(table: pa.Table, sink: Stream | _HashingSink) -> None:
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=table.num_rows)


def _make_sparse_array(group: Sparse, games: list[PackedGame]) -> pa.ListArray:
    counts, slots = [], []
    values: dict[str, list[np.ndarray]] = {name: [] for name, _ in group.fields}
    for game in games:
        rows = game.sparse.get(group.name)
        if rows is None:
            counts.append(np.zeros(game.frames, dtype=np.int64))
            continue
        counts.append(np.bincount(rows.frames, minlength=game.frames))
        slots.append(rows.slots)
        for name, column in rows.values.items():
            values[name].append(column)
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int32)
    arrays = [pa.array(np.concatenate(slots))] + [pa.array(np.concatenate(values[name])) for name, _ in group.fields]
    struct = pa.StructArray.from_arrays(arrays, names=["slot", *(name for name, _ in group.fields)])
    return pa.ListArray.from_arrays(pa.array(offsets), struct)
