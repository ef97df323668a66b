"""Columns stacked by type are the same columns."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.games_on_disk import as_file, random_columns
from worldmodel.blocks.layout import layout_named
from worldmodel.games.parsed import read_game
from worldmodel.games.planes import Planes, has_same_bits
from worldmodel.schema import Storage


def make_planes(seed: int, frames: int = 50, *, is_tight: bool = True) -> Planes:
    return read_game(as_file(random_columns(seed, frames, is_tight=is_tight)), "game", {}).planes


def test_every_column_comes_back_from_the_planes_with_its_type_and_bits() -> None:
    planes = make_planes(1)
    again = Planes.of({key: values.copy() for key, values in planes.columns.items()})
    assert again.is_same(planes)
    assert all(has_same_bits(values, again.columns[key]) for key, values in planes.columns.items())


def test_bounds_are_those_of_each_column() -> None:
    planes = make_planes(2)
    expected = {key: (float(values.min()), float(values.max())) for key, values in planes.columns.items()}
    assert planes.bounds == expected


def test_a_zero_of_another_sign_is_another_value() -> None:
    planes = make_planes(3)
    other = Planes({storage: plane.copy() for storage, plane in planes.values.items()})
    planes.values[Storage.FLOAT32][0, 0], other.values[Storage.FLOAT32][0, 0] = 0.0, -0.0
    assert not planes.is_same(other)


@given(seed=st.integers(0, 2**32), frames=st.integers(1, 40), row=st.floats(0, 0.999), bit=st.integers(0, 31))
@settings(max_examples=25, deadline=None)
def test_a_layout_that_would_change_one_bit_says_so(seed: int, frames: int, row: float, bit: int) -> None:
    planes, layout = make_planes(seed, frames), layout_named("tight")
    matrices = layout.allocate(frames)
    assert layout.pack(planes, matrices)
    floats = planes.values[Storage.FLOAT32]
    place = (int(row * len(floats)), frames // 2)
    floats.view(np.uint32)[place] ^= np.uint32(1 << bit)
    is_kept = layout.pack(planes, matrices)
    assert is_kept == layout.unpack(matrices).is_same(planes)
    assert layout_named("wide").pack(planes, layout_named("wide").allocate(frames))
