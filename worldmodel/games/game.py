"""One game as typed columns: what every reader yields and every block stores."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from worldmodel.errors import GameError
from worldmodel.schema import PLAYER_FIELDS, Field, Storage

_LIMITS = {Storage.UINT16: 65535, Storage.UINT8: 255, Storage.BIT: 1}


@dataclass(frozen=True, kw_only=True)
class SparseRows:
    """The rows of one sparse group, ordered by frame, then slot. R rows."""

    frames: np.ndarray
    """int32 (R,): the frame of each row."""
    slots: np.ndarray
    """uint8 (R,): the item slot, or the player for Nana."""
    values: dict[str, np.ndarray]
    """Value name to (R,) array."""


@dataclass(frozen=True, kw_only=True)
class Game:
    """A two-player game of T frames, in the game's own values."""

    md5: str
    """Name of the game: md5 of its replay, or of its content where there is no replay."""
    stage: int
    """Stage id, constant in a game."""
    columns: dict[tuple[int, str], np.ndarray]
    """(player, field name) to (T,) values in the field's `storage` type (flags bool, eight packed flags uint8)."""
    sparse: dict[str, SparseRows] = field(default_factory=dict)
    """Group name to its rows; a group without rows may be left out."""
    absent: frozenset[str] = frozenset()
    """Columns that the file does not have: "p0.hitlag", or a sparse group's name."""
    missing: frozenset[str] = frozenset()
    """Absent fields, and those that are zero only because the replay lacks them: masked in loss and metrics."""
    repeats: str = "unknown"
    """Rollback repeats: "none", "N dropped" where frame ids were at hand, else "unknown"."""
    entry: dict[str, object] = field(default_factory=dict)
    """What the source says of the game (its entry of meta.json)."""

    @property
    def frames(self) -> int:
        """T."""
        return len(self.columns[0, PLAYER_FIELDS[0].name])


def stored_type(field: Field) -> np.dtype:
    """NumPy type of a field's column in a `Game`."""
    if field.bits == 8:
        return np.dtype(np.uint8)
    return np.dtype(bool if field.storage is Storage.BIT else field.storage.value)


def is_same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays of one type hold the same bits (so that -0.0 differs from 0.0)."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype == np.float32:
        a, b = a.view(np.uint32), b.view(np.uint32)
    return bool((a == b).all())


def check_column(field: Field, player: int, values: np.ndarray) -> np.ndarray:
    """`values` (T,) in the field's storage type; GameError names the first value that it cannot hold."""
    where = f"p{player}.{field.name}"
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        bad = np.flatnonzero(~np.isfinite(values))
        raise GameError(f"{where} has {len(bad)} non-finite values, the first ({values[bad[0]]}) at row {bad[0]}")
    wanted = stored_type(field)
    if values.dtype == wanted:
        return values
    if np.can_cast(values.dtype, wanted):
        return values.astype(wanted)
    if wanted == np.float32:
        with np.errstate(over="ignore"):  # what overflows is found unequal
            kept = values.astype(np.float32)
        bad = np.flatnonzero(kept.astype(np.float64) != values.astype(np.float64))
    else:
        limit = _LIMITS[Storage.UINT8 if field.bits == 8 else field.storage]
        bad = np.flatnonzero((values < 0) | (values > limit) | (values != np.floor(values.astype(np.float64))))
        kept = values.astype(wanted) if not len(bad) else values
    if len(bad):
        kind = "uint8" if field.bits == 8 else field.storage.value
        raise GameError(f"{where} holds {values[bad[0]]} at row {bad[0]}, outside its storage type {kind}")
    return kept


def select_rows(game: Game, rows: np.ndarray, repeats: str) -> Game:
    """The game with only `rows` (ascending indices into its frames)."""
    position = np.full(game.frames, -1, dtype=np.int64)
    position[rows] = np.arange(len(rows))
    sparse = {}
    for name, group in game.sparse.items():
        frames = position[group.frames]
        kept = np.flatnonzero(frames >= 0)
        order = kept[np.lexsort((group.slots[kept], frames[kept]))]
        sparse[name] = SparseRows(
            frames=frames[order].astype(np.int32),
            slots=group.slots[order],
            values={key: values[order] for key, values in group.values.items()},
        )
    columns = {key: values.take(rows) for key, values in game.columns.items()}
    return replace(game, columns=columns, sparse=sparse, repeats=repeats)


def drop_repeats(game: Game, frame_ids: np.ndarray) -> Game:
    """Keep the last row of each frame id: a rollback replays frames, and only its last version happened.

    `frame_ids` (T,): ids as the replay numbers them (from -123 on). GameError where they do not fit the game.
    """
    if frame_ids.shape != (game.frames,):
        raise GameError(f"{len(frame_ids)} frame ids for {game.frames} rows")
    ids, from_end = np.unique(frame_ids[::-1], return_index=True)
    if len(ids) > 1 and int(ids[-1]) - int(ids[0]) != len(ids) - 1:
        gap = ids[:-1][np.diff(ids) > 1][0]
        raise GameError(f"frame ids skip after {gap}: frames are lost in the file")
    dropped = game.frames - len(ids)
    rows = game.frames - 1 - from_end
    if not dropped and bool((np.diff(rows) > 0).all()):
        return replace(game, repeats="none")
    return select_rows(game, rows, f"{dropped} dropped")
