"""What a person holds, as the console would have recorded it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.errors import UserError
from worldmodel.play.pads import AXES, CONTROLS, DEAD_ZONE, Held, read_pad, release_pad, to_row
from worldmodel.schema import Code, code_table

TILTS = st.floats(-1, 1)


@settings(max_examples=100, deadline=None)
@given(st.tuples(TILTS, TILTS, TILTS, TILTS), st.floats(0, 1), st.sets(st.sampled_from("ABXYZLR")))
def test_only_what_the_console_records_comes_out(
    axes: tuple[float, float, float, float], shoulder: float, down: set[str]
) -> None:
    pad = read_pad(Held(axes=axes, shoulder=shoulder, down=frozenset(f"button_{name}" for name in down)))
    assert list(pad) == [field.name for field in CONTROLS]
    for first, second in (AXES[:2], AXES[2:]):
        x, y = pad[first] * 2 - 1, pad[second] * 2 - 1
        assert math.hypot(x, y) <= 1 + 1e-6
        assert all(value == 0 or abs(value) >= DEAD_ZONE - 1e-6 for value in (x, y))
        assert {np.float32(pad[first]), np.float32(pad[second])} <= set(code_table(Code.STICK))
    assert np.float32(pad["shoulder"]) in code_table(Code.TRIGGER)
    assert {name for name, value in pad.items() if name.startswith("button") and value} == {
        f"button_{name}" for name in down
    }


def test_a_stick_held_right_and_up_is_on_its_circle() -> None:
    pad = read_pad(Held(axes=(1.0, 1.0, 0.0, -1.0)))
    assert [pad[axis] for axis in AXES] == pytest.approx([0.85, 0.85, 0.5, 0.0])


def test_a_pressed_shoulder_button_pushes_its_trigger_in() -> None:
    assert read_pad(Held(down=frozenset({"button_R"})))["shoulder"] == 1.0


def test_who_holds_nothing_has_a_neutral_pad() -> None:
    row = to_row([release_pad(), release_pad()])
    assert row.shape == (2, len(CONTROLS)) and row.dtype == np.float32
    assert (row[:, :4] == 0.5).all() and (row[:, 4:] == 0).all()


@pytest.mark.parametrize(
    "message",
    [
        None, {}, {"axes": [0, 0, 0], "shoulder": 0, "down": []}, {"axes": [0, 0, 0, "x"], "shoulder": 0, "down": []},
        {"axes": [0, 0, 0, math.nan], "shoulder": 0, "down": []},
        {"axes": [0, 0, 0, 0], "shoulder": 0, "down": ["START"]}, {"axes": [0] * 4, "shoulder": math.inf, "down": []},
    ],
)  # fmt: skip
def test_a_pad_that_is_none_is_refused(message: Any) -> None:
    with pytest.raises(UserError, match="a pad cannot be understood"):
        Held.parse(message)
