"""Which fields a game's file lacks although it has a column of zeros for them.

Older Slippi versions do not record every field, and converters then write zeros. A zero that means "not recorded" must
not be learned as a value, so such fields are found per game (and per player) and masked in loss and metrics.
Three sources, in this order: the file has no such column; its meta.json names the field or a version before the field
existed; all its values are zero although the game shows that they cannot be (`schema.Evidence`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache

import numpy as np

from worldmodel.games.entry import read_version
from worldmodel.games.planes import Planes
from worldmodel.schema import PLAYER_FIELDS, PLAYERS, Evidence, Field

_LANDING_LAG = (70, 74)
"""Actions LANDING_AIR_N .. LANDING_AIR_LW: landing while an aerial attack is under way."""


def find_missing(planes: Planes, absent: frozenset[str], entry: dict[str, object]) -> frozenset[str]:
    """Names ("p0.hitlag") of player fields that the game lacks; those that are absent are zero in `planes`."""
    found = {name for name in absent if name[0] == "p" and "." in name}
    for player in range(PLAYERS):
        for group in _groups():
            is_blank = all(planes.bounds[player, f.name] == (0.0, 0.0) for f in group)
            if is_blank and _is_lacking(planes, player, group, entry):
                found |= {f"p{player}.{f.name}" for f in group}
    return frozenset(found)


@cache
def _groups() -> list[list[Field]]:
    named: dict[str, list[Field]] = {}
    for field in PLAYER_FIELDS:
        if field.since or field.absence is not Evidence.NEVER:
            named.setdefault(field.group or field.name, []).append(field)
    return list(named.values())


def _is_lacking(planes: Planes, player: int, group: list[Field], entry: dict[str, object]) -> bool:
    return any(is_declared_missing(field, entry) or _EVIDENCE[field.absence](planes, player) for field in group)


def list_declared(entry: dict[str, object]) -> tuple[str, ...]:
    """Names of the fields that a meta.json entry says its replay lacks, of those for which that counts."""
    declared = entry.get("missing_fields")
    names = tuple(map(str, declared)) if isinstance(declared, list) else ()
    return _list_declared(".".join(map(str, read_version(entry.get("slippi_version")))), names)


@lru_cache(maxsize=256)
def _list_declared(version: str, names: tuple[str, ...]) -> tuple[str, ...]:
    entry: dict[str, object] = {"slippi_version": version, "missing_fields": list(names)}
    return tuple(field.name for group in _groups() for field in group if is_declared_missing(field, entry))


def is_declared_missing(field: Field, entry: dict[str, object]) -> bool:
    """Whether a meta.json entry says so: `missing_fields` by our name or peppi's, or a `slippi_version` before it."""
    declared = entry.get("missing_fields") or []
    names = {str(name).removeprefix("leader.") for name in declared} if isinstance(declared, list) else set()
    if field.name in names or (field.peppi and field.peppi in names):
        return True
    version, since = read_version(entry.get("slippi_version")), read_version(field.since)
    return bool(version and since and version < since)


def _rises(values: np.ndarray) -> int:
    return int((np.diff(values.astype(np.float32)) > 0).sum())


def _was_hit(planes: Planes, player: int) -> bool:
    return sum(_rises(planes.column(p, "percent")) for p in range(PLAYERS)) >= 3


def _has_hit(planes: Planes, player: int) -> bool:
    return _rises(planes.column(1 - player, "percent")) >= 3


def _moved(planes: Planes, player: int) -> bool:
    return bool(any(np.ptp(planes.column(player, axis)) > 1 for axis in ("x", "y")))


def _left_ground(planes: Planes, player: int) -> bool:
    grounded = planes.column(player, "on_ground")
    return bool(grounded.any() and not grounded.all())


def _lost_stock(planes: Planes, player: int) -> bool:
    return _rises(-planes.column(player, "stocks").astype(np.float32)) > 0


def _landed_attack(planes: Planes, player: int) -> bool:
    action = planes.column(player, "action")
    return bool(((action >= _LANDING_LAG[0]) & (action <= _LANDING_LAG[1])).any())


_EVIDENCE: dict[Evidence, Callable[[Planes, int], bool]] = {
    Evidence.NEVER: lambda planes, player: False,
    Evidence.ALWAYS: lambda planes, player: True,
    Evidence.HIT: _was_hit,
    Evidence.HAS_HIT: _has_hit,
    Evidence.MOVED: _moved,
    Evidence.AIRBORNE: _left_ground,
    Evidence.RESPAWNED: _lost_stock,
    Evidence.LANDED_ATTACK: _landed_attack,
}
