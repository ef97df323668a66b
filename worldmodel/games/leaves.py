"""The columns of a parsed file as NumPy arrays: every distinct one is decoded once.

Most of a file's 186 columns are the zeros of empty item slots. Columns of one type whose stored bytes are the same hold
the same values, so one of them is read for all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldmodel.errors import GameError
from worldmodel.games.planes import view_bits
from worldmodel.schema import FRAMES_PER_SECOND, parsed_type

try:
    from isal import isal_zlib as inflate  # a third faster
except ImportError:  # there is no build of it for this machine
    import zlib as inflate  # type: ignore[no-redef]

ColumnPath = tuple[str, ...]
MAX_GAME_BYTES = 512 * 2**20
"""A game of an hour is about 50 MB; more than this is no game (or a decompression bomb)."""
MAX_GAME_FRAMES = 3 * 3600 * FRAMES_PER_SECOND
"""Three hours; a column of a few bytes may claim any length."""
_INFLATE_ERROR: type[Exception] = inflate.error  # type: ignore[assignment]
_DAMAGE = (pa.ArrowException, OSError, ValueError, LookupError, RuntimeError)
"""What pyarrow raises on damaged files."""
_PARQUET, _ZLIB = b"PAR1", 0x78


class Leaves(dict[ColumnPath, np.ndarray]):
    """The values (T,) of every column under `root`, in the file's own types; equal columns may be one array."""

    def __init__(self, frames: int, values: dict[ColumnPath, np.ndarray]) -> None:
        super().__init__(values)
        self.frames = frames
        self._zero: dict[int, bool] = {}

    def is_zero(self, path: ColumnPath) -> bool:
        """Whether a column's bits are all zero (-0.0 is not)."""
        values = self[path]
        found = self._zero.get(id(values))
        if found is None:
            found = self._zero[id(values)] = not view_bits(values).any()
        return found


def read_leaves(data: bytes) -> Leaves:
    """The columns in a parsed file's bytes (zlib over parquet, or parquet). GameError says why there are none."""
    raw = _decompress(data)
    try:
        return _read(raw, is_whole=data[0] == _ZLIB)
    except _DAMAGE as error:
        raise GameError(f"not a parquet file: {explain(error)}") from error


def _read(raw: bytes, is_whole: bool) -> Leaves:
    """The columns of a parquet file. `is_whole`: a checksum has shown that nothing is damaged."""
    file = pq.ParquetReader()  # what ParquetFile reads with; that one also indexes every column by name
    file.open(pa.BufferReader(raw), pre_buffer=False)
    shape = _find_shape(file)
    _check_size(file.metadata)
    groups, rows = range(file.metadata.num_row_groups), file.metadata.num_rows
    # Reading no rows looks at how every column of a group is described: a contradiction is an error here, and where
    # one asks for the description itself, as for twins, the end of the process.
    for group in groups:
        list(file.iter_batches(0, [group], column_indices=range(len(shape.paths)), use_threads=False))
    twins = _find_twins(file.metadata, raw, shape) if is_whole else list(range(len(shape.paths)))
    chosen = [number for number, twin in enumerate(twins) if number == twin]
    # Batches: `read_all` would join the parts of each column, and there is but one.
    batches = list(file.iter_batches(rows, groups, column_indices=chosen, use_threads=False))
    parts = [batch.column(0) for batch in batches]
    read: list[np.ndarray | None] = []
    _collect(parts[0] if len(parts) == 1 else pa.concat_arrays(parts), (), read)
    values = dict(zip(chosen, read, strict=True))
    found = ((path, values[twin]) for path, twin in zip(shape.paths, twins, strict=True))
    return Leaves(rows, {path: column for path, column in found if column is not None})


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
    stream = inflate.decompressobj()
    try:
        raw = stream.decompress(data, MAX_GAME_BYTES)
    except _INFLATE_ERROR as error:
        raise GameError(f"damaged zlib data: {error}") from error
    if stream.unconsumed_tail:
        raise GameError(f"more than {MAX_GAME_BYTES >> 20} MiB once decompressed: no game is that long")
    if not stream.eof:
        raise GameError("truncated: the zlib stream ends early")
    return raw


@dataclass(frozen=True)
class _Shape:
    """The columns of a file, in its order."""

    schema: pq.ParquetSchema
    hints: bytes
    """The Arrow types that the writer left beside the parquet schema."""
    paths: list[ColumnPath]
    """Where each column stands under `root`."""
    kinds: list[tuple[object, ...]]
    """What decides how a column's stored bytes are to be read."""


_SHAPES: deque[_Shape] = deque(maxlen=4)
"""Shapes met last: comparing takes a fiftieth of the time of making one."""


def _find_shape(file: pq.ParquetReader) -> _Shape:
    schema, hints = file.metadata.schema, (file.metadata.metadata or {}).get(b"ARROW:schema", b"")
    for known in tuple(_SHAPES):
        if known.hints == hints and known.schema.equals(schema):
            return known
    columns = dict(_list_columns(file.schema_arrow))
    levels = (schema.column(number).max_definition_level for number in range(len(columns)))
    kinds: list[tuple[object, ...]] = list(zip(columns.values(), levels, strict=True))
    _SHAPES.appendleft(_Shape(schema, hints, list(columns), kinds))
    return _SHAPES[0]


def _list_columns(schema: pa.Schema) -> Iterator[tuple[ColumnPath, str]]:
    """Path under `root` and Arrow type of every column."""
    if "root" not in schema.names:
        raise GameError(f"no column 'root'; the file has {', '.join(schema.names) or 'none'}")
    beside = [name for name in schema.names if name != "root"]
    if beside or len(schema.names) > 1:
        raise GameError(f"unknown column {(beside or ['root'])[0]!r} beside 'root': the schema has no such field")
    root = schema.field("root").type
    if not pa.types.is_struct(root):
        raise GameError(f"column 'root' holds {root}, expected a struct of players and stage")
    return _check_struct(root, parsed_type(), ())


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


def _find_twins(metadata: pq.FileMetaData, raw: bytes, shape: _Shape) -> list[int]:
    """Each column's number, or that of the first of the same kind and the same stored bytes."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    met: dict[tuple[object, ...], list[tuple[int, list[bytes]]]] = {}
    twins = []
    for number, kind in enumerate(shape.kinds):
        stored = [_stored_bytes(group.column(number), raw) for group in groups]
        # Few columns are of one size: comparing those costs less than hashing all.
        alike = met.setdefault((kind, *map(len, stored)), [])
        twins.append(next((first for first, other in alike if other == stored), number))
        if twins[-1] == number:
            alike.append((number, stored))
    return twins


def _stored_bytes(chunk: pq.ColumnChunkMetaData, raw: bytes) -> bytes:
    start, size = chunk.dictionary_page_offset or chunk.data_page_offset, chunk.total_compressed_size
    stored = raw[start : start + size]
    if start < 0 or not stored or len(stored) != size:
        raise GameError(f"damaged: column {chunk.path_in_schema} does not lie within the file")
    return stored


def _collect(array: pa.StructArray, at: ColumnPath, read: list[np.ndarray | None]) -> None:
    """Append the values of every column below a struct, in the file's order; None: nothing but nulls, not recorded."""
    if array.null_count:
        raise GameError(f"{'.'.join(at) or 'root'} has {array.null_count} null values")
    for number, name in enumerate(array.type.names):
        child = array.field(number)
        if isinstance(child, pa.StructArray):
            _collect(child, (*at, name), read)
            continue
        if child.null_count and child.null_count < len(child):
            raise GameError(f"{'.'.join((*at, name))} has {child.null_count} null values")
        if child.null_count:
            read.append(None)
            continue
        read.append(_read_bits(child) if isinstance(child, pa.BooleanArray) else child.to_numpy(zero_copy_only=False))


def _read_bits(array: pa.BooleanArray) -> np.ndarray:
    """Flags without nulls as bool (T,); half the time of `to_numpy`."""
    stored, end = np.frombuffer(array.buffers()[1] or b"", dtype=np.uint8), array.offset + len(array)
    bits: np.ndarray = np.unpackbits(stored, count=end, bitorder="little")[array.offset :]
    return bits.view(bool)
