"""One game as typed columns: what every reader yields and every block stores."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from worldmodel.errors import GameError
from worldmodel.games.planes import Columns, Planes, stored_type
from worldmodel.schema import PLAYERS, Field, Storage

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
    planes: Planes
    """Every field of both players in T frames, in its `storage` type."""
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
        return self.planes.frames

    @property
    def characters(self) -> tuple[int, ...]:
        """The character that each player plays most: Zelda and Sheik change within a game."""
        played = (np.bincount(self.planes.column(player, "character")) for player in range(PLAYERS))
        return tuple(int(counts.argmax()) for counts in played)

    @property
    def columns(self) -> Columns:
        """(player, field name) to (T,) values in the field's type (flags bool, eight packed flags uint8)."""
        return self.planes.columns


def check_column(field: Field, player: int, values: np.ndarray) -> np.ndarray:
    """`values` (T,) in the field's storage type; GameError names the first value that it cannot hold."""
    where = f"P{player + 1} {field.name}"
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
