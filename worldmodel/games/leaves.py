"""The columns of a parsed file as NumPy arrays: every distinct one is decoded once.

Most of a file's 186 columns are the zeros of empty item slots. Columns of one type whose stored bytes are the same hold
the same values, so one of them is read for all.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldmodel.errors import GameError
from worldmodel.schema import FRAMES_PER_SECOND, parsed_type

ColumnPath = tuple[str, ...]
MAX_GAME_BYTES = 512 * 2**20
"""A game of an hour is about 50 MB; more than this is no game (or a decompression bomb)."""
MAX_GAME_FRAMES = 3 * 3600 * FRAMES_PER_SECOND
"""Three hours; a column of a few bytes may claim any length."""
_PARQUET, _ZLIB = b"PAR1", 0x78


class Leaves:
    """The values (T,) of every column under `root`, in the file's own types."""

    def __init__(self, frames: int, values: dict[ColumnPath, np.ndarray]) -> None:
        self.frames = frames
        self._values = values
        self._zero: dict[int, bool] = {}

    def __iter__(self) -> Iterator[ColumnPath]:
        return iter(self._values)

    def get(self, path: ColumnPath) -> np.ndarray | None:
        """The column at `path`, or None where the file has none."""
        return self._values.get(path)

    def is_zero(self, path: ColumnPath) -> bool:
        """Whether a column's bits are all zero (-0.0 is not)."""
        values = self._values[path]
        if id(values) not in self._zero:
            self._zero[id(values)] = not view_bits(values).any()
        return self._zero[id(values)]


def view_bits(values: np.ndarray) -> np.ndarray:
    """Floats as unsigned integers of the same bits; other types as they are."""
    return values.view(f"u{values.itemsize}") if values.dtype.kind == "f" else values


def read_leaves(data: bytes) -> Leaves:
    """The columns in a parsed file's bytes (zlib over parquet, or parquet). GameError says why there are none."""
    raw = _decompress(data)
    try:
        file = pq.ParquetReader()  # what ParquetFile reads with; that one also indexes every column by name
        file.open(pa.BufferReader(raw), pre_buffer=False)
        metadata = file.metadata
        kinds = _list_leaves(file.schema_arrow)
        _check_size(metadata)
        # pyarrow aborts the process on some damaged footers; within zlib a checksum has shown that the file is whole.
        twins = _find_twins(metadata, raw, kinds) if data[0] == _ZLIB else {path: path for path in kinds}
        chosen = [number for number, (path, twin) in enumerate(twins.items()) if path == twin]
        table = file.read_all(column_indices=chosen, use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise GameError(f"not a parquet file: {explain(error)}") from error
    read = dict(_walk(_join(table.column("root")), ()))
    return Leaves(table.num_rows, {path: read[twin] for path, twin in twins.items()})


def _join(column: pa.ChunkedArray) -> pa.StructArray:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def explain(error: Exception) -> str:
    """The first line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


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


def _list_leaves(schema: pa.Schema) -> dict[ColumnPath, str]:
    """Path under `root` to Arrow type of every column, in the file's order."""
    if "root" not in schema.names:
        raise GameError(f"no column 'root'; the file has {', '.join(schema.names) or 'none'}")
    beside = [name for name in schema.names if name != "root"]
    if beside or len(schema.names) > 1:
        raise GameError(f"unknown column {(beside or ['root'])[0]!r} beside 'root': the schema has no such field")
    root = schema.field("root").type
    for known, kinds in tuple(_CHECKED):
        if root.equals(known):
            return kinds
    if not pa.types.is_struct(root):
        raise GameError(f"column 'root' holds {root}, expected a struct of players and stage")
    _CHECKED.appendleft((root, dict(_check_struct(root, parsed_type(), ()))))
    return _CHECKED[0][1]


_CHECKED: deque[tuple[pa.DataType, dict[ColumnPath, str]]] = deque(maxlen=4)
"""Types of `root` met last, and their columns: comparing two types takes half the time of hashing one."""


def _check_struct(found: pa.DataType, known: pa.DataType, at: ColumnPath) -> Iterator[tuple[ColumnPath, str]]:
    names = [child.name for child in found]
    for child in found:
        path = (*at, child.name)
        name, index = ".".join(path), known.get_field_index(child.name)
        if index < 0:
            raise GameError(f"unknown column {name!r}: the schema has no such field")
        if names.count(child.name) > 1:
            raise GameError(f"column {name!r} stands twice in the file")
        expected = known.field(index).type
        if pa.types.is_struct(child.type) != pa.types.is_struct(expected):
            raise GameError(f"column {name!r} holds {child.type}, expected {expected}")
        if pa.types.is_struct(child.type):
            yield from _check_struct(child.type, expected, path)
        elif not _is_number(child.type):
            raise GameError(f"column {name!r} holds {child.type}, expected numbers")
        else:
            yield path, str(child.type)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _check_size(metadata: pq.FileMetaData) -> None:
    if not metadata.num_rows:
        raise GameError("zero frames")
    if metadata.num_rows > MAX_GAME_FRAMES:
        raise GameError(f"claims {metadata.num_rows} frames: no game is longer than {MAX_GAME_FRAMES}")
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    if sum(group.total_byte_size for group in groups) > MAX_GAME_BYTES:
        raise GameError(f"more than {MAX_GAME_BYTES >> 20} MiB once decompressed: no game is that long")


def _find_twins(metadata: pq.FileMetaData, raw: bytes, kinds: dict[ColumnPath, str]) -> dict[ColumnPath, ColumnPath]:
    """Each column to the first of the same type and the same stored bytes."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    schema = metadata.schema
    met: dict[tuple[object, ...], list[tuple[ColumnPath, list[bytes]]]] = {}
    twins = {}
    for number, (path, kind) in enumerate(kinds.items()):
        chunks = [_stored_bytes(group.column(number), raw) for group in groups]
        # Few columns are of one size: comparing those costs less than hashing all.
        alike = met.setdefault((kind, schema.column(number).max_definition_level, *map(len, chunks)), [])
        twin = next((first for first, stored in alike if stored == chunks), None)
        twins[path] = path if twin is None else twin
        if twin is None:
            alike.append((path, chunks))
    return twins


def _stored_bytes(chunk: pq.ColumnChunkMetaData, raw: bytes) -> bytes:
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    stored = raw[start : start + chunk.total_compressed_size]
    if start < 0 or not stored or len(stored) != chunk.total_compressed_size:
        raise GameError(f"damaged: column {chunk.path_in_schema} does not lie within the file")
    return stored


def _walk(array: pa.Array, at: ColumnPath) -> Iterator[tuple[ColumnPath, np.ndarray]]:
    if array.null_count:
        raise GameError(f"{'.'.join(at) or 'root'} has {array.null_count} null values")
    if not isinstance(array, pa.StructArray):
        yield at, _read_bits(array) if isinstance(array, pa.BooleanArray) else array.to_numpy(zero_copy_only=False)
        return
    for number, name in enumerate(array.type.names):
        yield from _walk(array.field(number), (*at, name))


def _read_bits(array: pa.BooleanArray) -> np.ndarray:
    """Flags without nulls as bool (T,); half the time of `to_numpy`."""
    stored, end = np.frombuffer(array.buffers()[1] or b"", dtype=np.uint8), array.offset + len(array)
    bits: np.ndarray = np.unpackbits(stored, count=end, bitorder="little")[array.offset :]
    return bits.view(bool)
