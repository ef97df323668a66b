"""Replays as peppi shows them, made by hand: for what real replays do not show, and for machines without any."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

FRAMES = 400


@dataclass
class FakePlayer:
    """What `Start.players` holds of one player; compared by value through `asdict`, as peppi's own."""

    port: int
    character: int = 2
    type: Any = field(default_factory=lambda: SimpleNamespace(name="HUMAN"))
    stocks: int = 4
    name_tag: str = ""
    netplay: str = ""


@dataclass
class FakeStart:
    """The start block."""

    players: tuple[FakePlayer, ...]
    slippi: Any = field(default_factory=lambda: SimpleNamespace(version=(3, 14, 0)))
    is_teams: bool = False
    stage: int = 31
    random_seed: int = 7
    is_pal: bool = False


def fake_data(rows: int, seed: int, buttons: int = 0x100) -> SimpleNamespace:
    """A player's pre- and post-frame data of `rows` rows; every value differs from row to row."""
    dice = np.random.default_rng(seed)

    def real(low: float, high: float) -> pa.Array:
        return pa.array(dice.uniform(low, high, rows).astype(np.float32))

    def whole(high: int, kind: type) -> pa.Array:
        return pa.array(dice.integers(0, high, rows).astype(kind))

    def place() -> SimpleNamespace:
        return SimpleNamespace(x=real(-1, 1), y=real(-1, 1))

    velocities = {name: real(-3, 3) for name in ("self_x_air", "self_y", "self_x_ground", "knockback_x", "knockback_y")}
    pressed = np.where(dice.random(rows) < 0.5, buttons, 0).astype(np.uint16)
    pre = SimpleNamespace(
        joystick=place(), cstick=place(), buttons_physical=pa.array(pressed),
        triggers_physical=SimpleNamespace(l=real(0, 1), r=real(0, 1)),
    )  # fmt: skip
    post = SimpleNamespace(
        character=whole(30, np.uint8), state=whole(380, np.uint16), position=place(),
        direction=pa.array(np.where(dice.random(rows) < 0.5, -1, 1).astype(np.float32)), percent=real(0, 150),
        shield=real(0, 60), last_attack_landed=whole(60, np.uint8), combo_count=whole(9, np.uint8),
        stocks=whole(5, np.uint8), state_age=real(0, 60), state_flags=tuple(whole(256, np.uint8) for _ in range(5)),
        misc_as=real(0, 40), airborne=whole(2, np.uint8), ground=whole(9, np.uint16), jumps=whole(3, np.uint8),
        l_cancel=whole(3, np.uint8), hurtbox_state=whole(3, np.uint8), velocities=SimpleNamespace(**velocities),
        hitlag=real(0, 9),
    )  # fmt: skip
    return SimpleNamespace(pre=pre, post=post)


def fake_game(ids: np.ndarray | None = None, ports: tuple[int, ...] = (0, 1), **start: Any) -> SimpleNamespace:
    """A replay that would be accepted; change what a test is about."""
    ids = np.arange(-123, FRAMES - 123) if ids is None else ids
    no_items = pa.array([[]] * len(ids), pa.list_(pa.int32()))
    items = SimpleNamespace(
        **dict.fromkeys(("type", "state", "id"), no_items), position=SimpleNamespace(x=no_items, y=no_items)
    )
    frames = SimpleNamespace(
        id=pa.array(ids.astype(np.int32)), items=items, fod_platforms=None,
        ports=tuple(SimpleNamespace(leader=fake_data(len(ids), port), follower=None) for port in ports),
    )  # fmt: skip
    return SimpleNamespace(
        start=FakeStart(players=tuple(FakePlayer(port) for port in ports), **start),
        end=SimpleNamespace(method=SimpleNamespace(name="GAME"), lras_initiator=None),
        metadata={"playedOn": "dolphin"},
        frames=frames,
    )
