"""Reading a file's columns once each."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from worldmodel.games.leaves import read_leaves

_ROWS = 1003
_COLUMNS = {
    "x": np.float32,
    "y": np.float32,
    "percent": np.uint16,
    "facing": bool,
    "on_ground": bool,
    "stocks": np.uint8,
}


def make_columns(seed: int) -> dict[str, np.ndarray]:
    """Random columns (T,): those of one type take the same number of bytes."""
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 2, _ROWS).astype(kind) for name, kind in _COLUMNS.items()}


def store(players: list[dict[str, np.ndarray]], rows_in_group: int) -> bytes:
    structs = [pa.StructArray.from_arrays([pa.array(v) for v in p.values()], names=list(p)) for p in players]
    root = pa.StructArray.from_arrays(structs, names=[f"p{number}" for number in range(len(players))])
    sink = io.BytesIO()
    pq.write_table(pa.table({"root": root}), sink, row_group_size=rows_in_group, compression="none")
    return sink.getvalue()


@pytest.mark.parametrize("rows_in_group", [_ROWS, 100])
@pytest.mark.parametrize("is_packed", [True, False])
def test_columns_of_one_type_and_size_keep_their_own_values(rows_in_group: int, is_packed: bool) -> None:
    players = [make_columns(0), make_columns(1)]
    raw = store(players, rows_in_group)
    leaves = read_leaves(zlib.compress(raw) if is_packed else raw)
    for number, player in enumerate(players):
        for name, values in player.items():
            read = leaves.get((f"p{number}", name))
            assert read is not None and read.dtype == values.dtype
            assert np.array_equal(read, values)


def test_equal_columns_are_read_once() -> None:
    leaves = read_leaves(zlib.compress(store([make_columns(0), make_columns(0)], _ROWS)))
    for name in _COLUMNS:
        assert leaves.get(("p0", name)) is leaves.get(("p1", name))
