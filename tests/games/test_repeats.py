"""Of frames that a rollback played again the last version stays, found by a plain loop."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.games_on_disk import as_file, toy_columns
from worldmodel.errors import GameError
from worldmodel.games.parsed import read_game
from worldmodel.games.repeats import describe_dropped, find_last_rows


@given(frames=st.integers(1, 30), more=st.lists(st.integers(0, 29), max_size=20), seed=st.integers(0, 99))
def test_each_frame_is_found_in_its_last_row_whatever_the_order(frames: int, more: list[int], seed: int) -> None:
    ids = np.array([*range(frames), *(n % frames for n in more)], dtype=np.int32) - 123
    ids = np.random.default_rng(seed).permutation(ids)
    last = {int(frame): row for row, frame in enumerate(ids)}
    expected = [last[frame] for frame in sorted(last)]
    kept = find_last_rows(ids, len(ids))
    assert (list(range(len(ids))) if kept is None else kept.tolist()) == expected
    assert describe_dropped(kept, len(ids)) == ("none" if kept is None else f"{len(ids) - frames} dropped")


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        (np.int32(5), r"have the shape \(\), expected \(30,\)"),
        (np.zeros((30, 1), dtype=np.int32), r"have the shape \(30, 1\), expected \(30,\)"),
        (np.zeros((0,), dtype=np.int32), "0 frame ids for 30 rows"),
        (np.arange(30).astype(object), "cannot be read: Object arrays cannot be loaded"),
        (np.arange(30).astype(str), "hold <U21, expected integers"),
        (np.arange(30).astype(np.float32), "hold float32, expected integers"),
        (np.arange(30) > 3, "hold bool, expected integers"),
        (np.zeros(30, dtype=[("a", np.int32)]), "hold .*, expected integers"),
        (np.arange(30, dtype=np.uint64) + np.uint64(2**63), "from 9223372036854775808 to .*: no game is that long"),
    ],
)
def test_a_file_of_ids_that_is_no_row_of_integers_rejects_its_game_with_a_reason(ids: np.ndarray, reason: str) -> None:
    sink = io.BytesIO()
    np.save(sink, ids, allow_pickle=True)
    with pytest.raises(GameError, match=reason):
        read_game(as_file(toy_columns(1, 30)), "game", {}, sink.getvalue())


@pytest.mark.parametrize("kind", ["i1", "u1", "<i2", ">i4", "<i8", "<u8"])
def test_ids_of_any_integer_type_are_understood(kind: str) -> None:
    ids = np.r_[0:100, 98, 99].astype(kind)
    assert (found := find_last_rows(ids, len(ids))) is not None
    assert found.tolist() == [*range(98), 100, 101]


@pytest.mark.parametrize(
    ("ids", "rows", "reason"),
    [
        ([0, 1], 3, "2 frame ids for 3 rows"),
        ([0, 1, 5], 3, "frame ids skip after 1"),
        ([0, 1, 3, 3, 1], 5, "frame ids skip after 1"),
        ([-(2**31), 2**31 - 1], 2, "frame ids skip after -2147483648"),
    ],
)
def test_ids_that_do_not_fit_the_game_are_refused(ids: list[int], rows: int, reason: str) -> None:
    with pytest.raises(GameError, match=reason):
        find_last_rows(np.array(ids, dtype=np.int32), rows)
