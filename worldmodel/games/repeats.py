"""Rollback repeats: a netplay replay holds a frame again when it was played anew; only its last version happened."""

from __future__ import annotations

import numpy as np

from worldmodel.errors import GameError

_IDS = np.iinfo(np.int32)
"""Replays hold frame ids as int32."""


def find_last_rows(frame_ids: np.ndarray, rows: int) -> np.ndarray | None:
    """The row of each frame's last version, by frame id; None where every row is one already, in order.

    `frame_ids` (rows,): ids as the replay numbers them (from -123 on). GameError where they do not fit the game.
    """
    if frame_ids.ndim != 1:
        raise GameError(f"its frame ids have the shape {frame_ids.shape}, expected ({rows},)")
    if len(frame_ids) != rows:
        raise GameError(f"{len(frame_ids)} frame ids for {rows} rows")
    first, last = int(frame_ids.min()), int(frame_ids.max())
    if first < _IDS.min or last > _IDS.max:
        raise GameError(f"frame ids from {first} to {last}: no game is that long")
    if last - first < rows:
        found = np.full(last - first + 1, -1, dtype=np.int64)
        found[frame_ids.astype(np.int64) - first] = np.arange(rows)  # of equal places the last one stays
    else:  # more ids than rows: some are lost
        found = np.full(1, -1, dtype=np.int64)
    if (found < 0).any():
        known = np.unique(frame_ids).astype(np.int64)
        raise GameError(f"frame ids skip after {known[:-1][np.diff(known) > 1][0]}: frames are lost in the file")
    is_in_order = len(found) == rows and bool((found[:-1] < found[1:]).all())
    return None if is_in_order else found


def describe_dropped(kept: np.ndarray | None, rows: int) -> str:
    """`Game.repeats` of a game whose frame ids are known."""
    return "none" if kept is None else f"{rows - len(kept)} dropped"
