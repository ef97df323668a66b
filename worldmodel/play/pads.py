"""From what a person holds to the controls of a frame, as the console would have recorded them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldmodel.errors import UserError
from worldmodel.schema import Code, Field, Kind, Storage, code_table, fields

CONTROLS = fields(Kind.CONTROL)
DEAD_ZONE = 0.2875
"""A stick's axis nearer to its centre than this reads as the centre: 23 of 80 steps. In 102 real games no recorded axis
lies in between, and no stick beyond the unit circle."""
AXES = ("main_stick_x", "main_stick_y", "c_stick_x", "c_stick_y")
CLICKS = ("button_L", "button_R")
"""Pressed down, they push their trigger in wholly."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a person holds in a moment."""

    axes: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Main stick right and up, C-stick right and up; -1 to 1, the middle is 0."""
    shoulder: float = 0.0
    """The deeper of both triggers, 0 to 1."""
    down: frozenset[str] = frozenset()
    """Buttons by the schema's name, as `button_A`."""

    @classmethod
    def parse(cls, message: Any) -> Held:
        """What a page sends: {"axes": [x, y, x, y], "shoulder": s, "down": ["A", ...]}.

        Raises:
            UserError: it is something else.
        """
        try:
            axes = [float(value) for value in message["axes"]]
            shoulder, down = float(message["shoulder"]), frozenset(f"button_{name}" for name in message["down"])
        except (TypeError, KeyError, ValueError) as error:
            raise UserError(f"a pad cannot be understood: {str(message)[:200]}") from error
        unknown = down - {field.name for field in CONTROLS}
        if len(axes) != len(AXES) or unknown or not all(map(math.isfinite, (*axes, shoulder))):
            raise UserError(f"a pad cannot be understood: {str(message)[:200]}")
        return cls(axes=(axes[0], axes[1], axes[2], axes[3]), shoulder=shoulder, down=down)


def read_pad(held: Held) -> dict[str, float]:
    """The controls of a frame, by name, in the schema's units: values that a game could hold, and no others."""
    main, c = (_limit(*held.axes[start : start + 2]) for start in (0, 2))
    values = dict(zip(AXES, ((axis + 1) / 2 for axis in (*main, *c)), strict=True))
    values["shoulder"] = 1.0 if held.down & set(CLICKS) else min(1.0, max(0.0, held.shoulder))
    values |= {field.name: float(field.name in held.down) for field in CONTROLS if field.storage is Storage.BIT}
    return {field.name: _snap(field, values[field.name]) for field in CONTROLS}


def release_pad() -> dict[str, float]:
    """The controls of a player who holds nothing."""
    return read_pad(Held())


def to_row(pads: Sequence[Mapping[str, float]]) -> np.ndarray:
    """(P, control) float32 of the players' controls, in the schema's order."""
    return np.array([[pad[field.name] for field in CONTROLS] for pad in pads], dtype=np.float32)


def _limit(x: float, y: float) -> tuple[float, float]:
    """A stick within its circle, and without what is too near to the centre."""
    reach = max(1.0, math.hypot(x, y))
    x, y = (0.0 if abs(value / reach) < DEAD_ZONE else value / reach for value in (x, y))
    return x, y


def _snap(field: Field, value: float) -> float:
    """The nearest value that the console records; a stick's towards the centre, so that it stays within its circle."""
    if field.code is None:
        return value
    table = code_table(field.code)
    if field.code is Code.STICK:
        steps = math.trunc(round((value * 2 - 1) * 80, 6))
        return float(table[steps + 80])
    return float(table[int(np.abs(table - value).argmin())])
