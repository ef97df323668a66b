"""Of frames that a rollback played again the last version stays, found by a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldmodel.errors import GameError
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
