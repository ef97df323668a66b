"""A replay's frames as columns of the parsed layout: what peppi gives, in the schema's names and units."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from worldmodel.errors import GameError
from worldmodel.games.writer import FIRST_FRAME_ID, ColumnPath
from worldmodel.schema import LEGAL_STAGES, PLAYER_FIELDS, SPARSE, Field, Kind

BUTTON_BITS = {"A": 0x100, "B": 0x200, "X": 0x400, "Y": 0x800, "Z": 0x10, "L": 0x40, "R": 0x20, "D_UP": 0x08}
"""Bits of `pre.buttons_physical` (Slippi replay specification, pre-frame update)."""
_STICKS = {"main_stick": "joystick", "c_stick": "cstick"}
_LARGEST_COUNTER = 200
"""The users' converter cuts the hitstun counter here."""
_FOUNTAIN = next(stage for stage, name in LEGAL_STAGES.items() if name == "Fountain of Dreams")
_FOUNTAIN_SIDES = {"right": 0, "left": 1}
"""peppi's numbers of the moving platforms."""
_NANA = {"exists": "", "jumps_left": "post.jumps", "character": "post.character"}
"""Values of Nana's that have other names than the same field of a player's."""
_FIELDS = {field.name: field for field in PLAYER_FIELDS}


def pick_rows(ids: np.ndarray) -> np.ndarray:
    """The row (F,) of each frame in order, of `ids` (rows,): the last of each id, because a rollback replays frames.

    Raises GameError where frames are lost: the first id is not -123, or ids have a gap.
    """
    kept, from_end = np.unique(ids[::-1], return_index=True)
    if not len(kept):
        raise GameError("no frames")
    if kept[0] != FIRST_FRAME_ID:
        raise GameError(f"first frame id is {kept[0]}, expected {FIRST_FRAME_ID}: frames are lost")
    if kept[-1] - kept[0] != len(kept) - 1:
        gap = kept[:-1][np.diff(kept) > 1][0]
        raise GameError(f"frame ids skip after {gap}: frames are lost")
    return len(ids) - 1 - from_end


def read_columns(frames: Any, stage: int, rows: np.ndarray) -> dict[ColumnPath, np.ndarray]:
    """Columns (F,) of the parsed layout from peppi's frames of two ports, lower port first.

    A field that this Slippi version does not record has no column. Raises GameError where a value is missing or not a
    number, or where the file lacks what every game needs.
    """
    columns: dict[ColumnPath, np.ndarray] = {("stage",): np.full(len(rows), stage, dtype=np.int64)}
    for player, port in enumerate(frames.ports):
        for field in PLAYER_FIELDS:
            values = _read_field(port.leader, field, rows, f"P{player + 1} {field.name}")
            if values is not None:
                columns[(f"p{player}", *field.column)] = values
            elif field.core:
                raise GameError(f"the replay does not record {field.name}, which every game needs")
    for read in (_read_items, _read_nana, _read_platforms):
        columns |= read(frames, stage, rows)
    for path in _group("randall").paths:
        columns |= {(*path, name): np.zeros(len(rows), dtype=kind) for name, kind in _group("randall").fields}
    return columns


def _group(name: str) -> Any:
    return next(group for group in SPARSE if group.name == name)


def _check(values: np.ndarray, name: str) -> np.ndarray:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise GameError(f"{name} has {(~np.isfinite(values)).sum()} values that are no numbers")
    return values


def find_at(data: Any, place: str) -> Any:
    """The array at a place such as `post.state_flags.0` in peppi's data; None where this version lacks it."""
    for part in place.split("."):
        if data is None:
            return None
        data = data[int(part)] if part.isdigit() else getattr(data, part, None)
    return data


def _to_numpy(array: pa.Array, name: str) -> np.ndarray:
    if array.null_count:
        raise GameError(f"{name} has no value in {array.null_count} rows")
    values: np.ndarray = array.to_numpy(zero_copy_only=False)
    return values


def _read_field(data: Any, field: Field, rows: np.ndarray, where: str) -> np.ndarray | None:
    """A field's values in some rows, called `where`; None where this version lacks it."""
    if field.kind is Kind.CONTROL:
        return _check(_read_control(data.pre, field)[rows], where)
    array = find_at(data, field.peppi)
    return None if array is None else _convert(field.name, _to_numpy(array, where)[rows], where)


def _convert(name: str, values: np.ndarray, where: str) -> np.ndarray:
    """The schema's value from the replay's, for what is not the same number in both."""
    if name == "hitstun_remaining":
        return _read_counter(values)
    values = _check(values, where)
    if name == "percent":
        return _truncate(values, where)
    tests = {"facing": np.greater, "on_ground": np.equal, "invulnerable": np.not_equal}
    return np.asarray(tests[name](values, 0)) if name in tests else values


def _truncate(values: np.ndarray, where: str) -> np.ndarray:
    """Percent as the parsed layout holds it: without the fraction, as the users' converter does it."""
    largest = np.iinfo(np.uint16).max
    outside = ~((values >= 0) & (values <= largest))
    if outside.any():
        raise GameError(f"{where} is {values[outside][0]}, expected 0 to {largest}")
    return values.astype(np.uint16)


def _read_counter(values: np.ndarray) -> np.ndarray:
    """The hitstun counter as the users' converter reads it (found by comparing with their parsed games).

    The game keeps other things in the same four bytes when nobody is in hitstun: a whole number, which as a float is
    too small to be normal, or a number that is no count of frames, which ends at the limits.
    """
    whole = values.view(np.int32).astype(np.float32)
    is_whole = np.abs(values) < np.finfo(np.float32).tiny
    return np.asarray(np.clip(np.nan_to_num(np.where(is_whole, whole, values)), 0, _LARGEST_COUNTER))


def _read_control(pre: Any, field: Field) -> np.ndarray:
    _, part, *rest = field.column
    if part in _STICKS:
        raw = _to_numpy(find_at(pre, f"{_STICKS[part]}.{rest[0]}"), field.name)
        return np.asarray(raw / np.float32(2) + np.float32(0.5))
    if part == "buttons":
        return np.asarray((_to_numpy(pre.buttons_physical, field.name) & BUTTON_BITS[rest[0]]) != 0)
    left, right = (_to_numpy(find_at(pre, f"triggers_physical.{side}"), field.name) for side in "lr")
    return np.asarray(np.maximum(left, right))


def _read_items(frames: Any, stage: int, rows: np.ndarray) -> dict[ColumnPath, np.ndarray]:
    """Items, each in one slot as long as it lives; none of these columns where the version does not record items."""
    group = _group("items")
    if frames.items is None:
        return {}
    offsets = frames.items.type.offsets.to_numpy()
    places = {"type": "type", "state": "state", "x": "position.x", "y": "position.y"}
    values = {name: _to_numpy(find_at(frames.items, place).values, name) for name, place in places.items()}
    slots = assign_slots(_to_numpy(frames.items.id.values, "id"), offsets, len(group.paths))
    frame_of = np.full(len(frames.id), -1)
    frame_of[rows] = np.arange(len(rows))
    frame = np.repeat(frame_of, np.diff(offsets))
    columns: dict[ColumnPath, np.ndarray] = {}
    for slot, path in enumerate(group.paths):
        there = (slots == slot) & (frame >= 0)
        for name, kind in group.fields:
            column = np.zeros(len(rows), dtype=kind)
            column[frame[there]] = True if name == "exists" else _check(values[name][there], f"an item's {name}")
            columns[(*path, name)] = column
    return columns


def assign_slots(ids: np.ndarray, offsets: np.ndarray, count: int) -> np.ndarray:
    """The slot (I,) of each of I item rows: an item keeps its slot, a new one takes the slot that was left last.

    `ids` (I,): item ids; those of row r are `ids[offsets[r]:offsets[r + 1]]`. Repeated rows count, as in the users'
    converter, whose slots these are. Raises GameError where a row has more than `count` items.
    """
    held: dict[int, int] = {}
    free = list(range(count))[::-1]
    slots = np.zeros(len(ids), dtype=np.int64)
    for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        present = ids[start:stop].tolist()
        for gone in [item for item in held if item not in present]:
            free.append(held.pop(gone))
        for row, item in enumerate(present, start):
            if item not in held:
                if not free:
                    raise GameError(f"{len(present)} items in one frame, the layout holds {count}")
                held[item] = free.pop()
            slots[row] = held[item]
    return slots


def _read_nana(frames: Any, stage: int, rows: np.ndarray) -> dict[ColumnPath, np.ndarray]:
    """The partner of each Ice Climbers player, zero where there is none; GameError where it is recorded in part."""
    group = _group("nana")
    columns: dict[ColumnPath, np.ndarray] = {}
    for port, path in zip(frames.ports, group.paths, strict=True):
        exists = None if port.follower is None else np.asarray(port.follower.post.state.is_valid())[rows]
        for name, kind in group.fields:
            column = np.zeros(len(rows), dtype=kind)
            if exists is not None and exists.any():
                column[exists] = _read_partner(port.follower, name, rows[exists])
            columns[(*path, name)] = column
    return columns


def _read_partner(follower: Any, name: str, rows: np.ndarray) -> np.ndarray:
    if name == "exists":
        return np.ones(len(rows), dtype=bool)
    place = _NANA.get(name) or _FIELDS[name].peppi
    array = find_at(follower, place)
    if array is None:
        raise GameError(f"the replay does not record {name} of Nana: half of her would be lost")
    where = f"Nana's {name}"
    return _convert(name, _to_numpy(array.take(pa.array(rows)), where), where)


def _read_platforms(frames: Any, stage: int, rows: np.ndarray) -> dict[ColumnPath, np.ndarray]:
    """Heights of the two moving platforms of Fountain of Dreams, from the first move that the file records; else 0."""
    group = _group("fod_platforms")
    columns = {
        (*path, name): np.zeros(len(rows), dtype=kind) for path in group.paths for name, kind in group.fields
    }  # fmt: skip
    moves = frames.fod_platforms
    if moves is None or stage != _FOUNTAIN:
        return columns
    offsets = moves.height.offsets.to_numpy()
    heights, sides = (
        _check(_to_numpy(array.values, "a platform's move"), "a platform's move")
        for array in (moves.height, moves.platform)
    )
    for frame, row in enumerate(rows):
        for move in range(offsets[row], offsets[row + 1]):
            for path in group.paths:
                for name, side in _FOUNTAIN_SIDES.items():
                    if sides[move] == side:
                        columns[(*path, name)][frame:] = heights[move]
    return columns
