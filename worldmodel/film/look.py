"""How players look: poses by action, and the colours of everything that is drawn.

The page (`scene.js`) and the video (`painter.py`) draw from these tables, so that both show the same picture. A figure
is 13 Melee units tall and faces right; the game's own bodies are not part of a replay, so it says what a player does,
not how large the character is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from worldmodel.games.names import find_action

Point = tuple[float, float]


@dataclass(frozen=True)
class Joints:
    """Where a body's ends are, in Melee units from the feet."""

    head: Point = (0.0, 11.8)
    neck: Point = (0.0, 9.2)
    hip: Point = (0.0, 5.2)
    front_hand: Point = (2.6, 5.8)
    back_hand: Point = (-2.3, 5.6)
    front_foot: Point = (1.8, 0.0)
    back_foot: Point = (-1.8, 0.0)


@dataclass(frozen=True, kw_only=True)
class Pose:
    """What a body does in an action: from one posture to another."""

    a: Joints
    b: Joints
    frames: float = 4.0
    """Frames from a to b."""
    repeats: bool = False
    """Back to a and again; else it stays at b."""
    spin: float = 0.0
    """Degrees that the body turns in a frame."""
    strikes: str = ""
    """The end that hits; it is drawn bright."""


STAND = Joints()
CROUCH = Joints((0.8, 7.4), (0.5, 5.6), (-0.5, 2.8), (2.8, 3.0), (-2.2, 2.8), (2.4, 0.0), (-2.4, 0.0))
HURT = Joints((-2.4, 10.6), (-1.3, 8.5), (0.5, 5.0), (2.8, 8.8), (1.8, 10.2), (2.4, 0.3), (-1.4, 0.0))
BALL = Joints((1.8, 7.6), (0.6, 6.6), (-1.4, 4.6), (2.2, 4.2), (1.6, 4.6), (1.4, 2.6), (-0.4, 2.2))
LYING = Joints((-5.4, 1.8), (-3.2, 1.4), (0.8, 1.3), (-1.0, 0.9), (-1.6, 2.6), (5.0, 0.8), (5.0, 1.8))
AIR = Joints((0.3, 12.0), (0.0, 9.6), (0.0, 5.8), (3.4, 10.4), (-3.4, 10.2), (1.8, 1.0), (-1.6, 2.0))
REACH = Joints((1.4, 11.2), (1.0, 8.9), (-0.2, 5.1), (8.2, 8.8), (-2.6, 6.6), (3.2, 0.0), (-3.0, 0.0))
WINDUP = Joints((-0.6, 11.4), (-0.4, 9.0), (0.0, 5.1), (-3.2, 8.0), (-3.0, 6.4), (2.2, 0.0), (-2.4, 0.0))


def _swing(base: Joints, stride: float, lift: float) -> Pose:
    """Arms and legs that change places."""
    low, high = base.front_hand[1] + 0.4, base.front_hand[1] + 1.2
    a = Joints(base.head, base.neck, base.hip, (-2.4, low), (3.4, high), (stride, lift), (-stride, 2 * lift))
    b = Joints(base.head, base.neck, base.hip, (3.4, high), (-2.4, low), (-stride, 2 * lift), (stride, lift))
    return Pose(a=a, b=b, repeats=True)


def _hit(b: Joints, strikes: str, a: Joints = WINDUP) -> Pose:
    return Pose(a=a, b=b, strikes=strikes)


LEAN = Joints(head=(2.6, 11.0), neck=(1.6, 8.7), hip=(0.0, 5.2))
POSES: dict[str, Pose] = {
    "stand": Pose(a=STAND, b=Joints((0.0, 11.5), (0.0, 8.9), (0.0, 5.0), (2.8, 5.4), (-2.5, 5.2)), frames=30.0,
                  repeats=True),
    "walk": _swing(STAND, 2.6, 0.2),
    "run": _swing(LEAN, 4.2, 0.8),
    "crouch": Pose(a=CROUCH, b=CROUCH),
    "jump": Pose(a=CROUCH, b=Joints((0.4, 12.4), (0.1, 9.9), (0.0, 6.0), (2.6, 12.4), (-2.8, 11.4), (1.2, 2.4),
                                    (-2.0, 0.6))),
    "fall": Pose(a=AIR, b=Joints((0.3, 12.0), (0.0, 9.6), (0.0, 5.8), (3.8, 9.4), (-3.8, 9.2), (2.2, 1.4),
                                 (-2.0, 1.2)), frames=12.0, repeats=True),
    "strike": _hit(REACH, "front_hand"),
    "strike up": _hit(Joints((0.4, 11.0), (0.2, 8.9), (0.0, 5.1), (1.2, 17.0), (-2.6, 6.2), (2.2, 0.0), (-2.2, 0.0)),
                      "front_hand"),
    "strike low": _hit(Joints((-0.4, 7.4), (-0.6, 5.6), (-1.4, 2.8), (-1.2, 4.4), (-3.6, 3.0), (7.6, 0.6),
                              (-2.4, 0.0)), "front_foot", CROUCH),
    "air": _hit(Joints((-0.6, 11.6), (-0.4, 9.4), (0.0, 6.2), (2.8, 9.6), (-3.2, 9.0), (6.0, 4.2), (-2.6, 3.2)),
                "front_foot", AIR),
    "air forward": _hit(Joints((0.8, 11.8), (0.6, 9.6), (0.0, 6.0), (8.0, 8.8), (-3.0, 8.0), (2.6, 2.6), (-2.0, 1.4)),
                        "front_hand", AIR),
    "air back": _hit(Joints((1.8, 11.2), (1.2, 9.2), (0.4, 6.2), (3.6, 8.4), (3.0, 7.0), (1.8, 2.2), (-8.0, 6.8)),
                     "back_foot", AIR),
    "air up": _hit(Joints((-0.8, 10.0), (-0.4, 8.2), (0.4, 5.6), (2.8, 6.8), (-3.2, 6.8), (1.4, 15.6), (-1.4, 2.2)),
                   "front_foot", AIR),
    "air down": _hit(Joints((0.2, 12.2), (0.0, 9.8), (0.0, 6.2), (3.4, 11.2), (-3.4, 11.2), (0.6, -2.6), (-1.6, 3.4)),
                     "front_foot", AIR),
    "special": _hit(Joints((1.0, 11.4), (0.6, 9.0), (-0.2, 5.2), (6.4, 9.6), (6.0, 8.0), (2.8, 0.0), (-2.8, 0.0)),
                    "front_hand", STAND),
    "grab": Pose(a=STAND, b=Joints((1.4, 11.0), (1.0, 8.8), (-0.2, 5.1), (6.6, 8.8), (6.2, 7.2), (2.8, 0.0),
                                   (-2.8, 0.0))),
    "guard": Pose(a=STAND, b=Joints((0.2, 9.8), (0.0, 7.8), (-0.4, 4.2), (2.6, 8.6), (2.2, 6.8), (2.2, 0.0),
                                    (-2.2, 0.0))),
    "hurt": Pose(a=STAND, b=HURT, frames=3.0),
    "tumble": Pose(a=HURT, b=AIR, frames=10.0, repeats=True, spin=-13.0),
    "lie": Pose(a=LYING, b=LYING),
    "roll": Pose(a=CROUCH, b=BALL, frames=3.0, spin=22.0),
    "dodge": Pose(a=STAND, b=Joints((-1.6, 11.0), (-0.8, 8.8), (0.2, 5.0), (0.8, 6.0), (-2.8, 6.6), (1.6, 0.0),
                                    (-1.8, 0.0))),
    "hang": Pose(a=STAND, b=Joints((-0.6, 11.4), (-0.8, 9.2), (-1.2, 5.0), (1.4, 13.8), (0.6, 13.8), (-0.6, 0.4),
                                   (-1.8, 0.2)), frames=2.0),
    "dizzy": Pose(a=Joints((1.6, 10.8), (0.8, 8.8), (0.0, 5.0), (1.8, 4.6), (0.2, 4.4)),
                  b=Joints((-1.2, 10.8), (-0.6, 8.8), (0.0, 5.0), (0.6, 4.6), (-1.8, 4.4)), frames=16.0, repeats=True),
    "cheer": Pose(a=STAND, b=Joints(front_hand=(2.4, 14.6), back_hand=(-2.4, 14.6)), frames=8.0, repeats=True),
    "gone": Pose(a=STAND, b=STAND),
}  # fmt: skip
GONE = "gone"
"""The pose of a player who has lost a stock: a cross marks the place."""

_BEGINNINGS = {
    "": "stand", "Dead": GONE, "Sleep": GONE, "Walk": "walk", "Dash": "run", "Run": "run", "RunBrake": "crouch",
    "TurnRun": "run", "KneeBend": "crouch", "Jump": "jump", "Fall": "fall", "DamageFall": "tumble", "Squat": "crouch",
    "Landing": "crouch", "Attack": "strike", "AttackHi": "strike up", "AttackLw": "strike low", "AttackAirN": "air",
    "AttackAirF": "air forward", "AttackAirB": "air back", "AttackAirHi": "air up", "AttackAirLw": "air down",
    "Damage": "hurt", "DamageFly": "tumble", "Light": "grab", "Heavy": "grab", "SwordSwing": "strike",
    "BatSwing": "strike", "ParasolSwing": "strike", "HarisenSwing": "strike", "StarRodSwing": "strike",
    "LipStickSwing": "strike", "LGun": "special", "FireFlower": "special", "ItemScope": "special", "Guard": "guard",
    "Down": "lie", "DownStand": "crouch", "DownAttack": "strike low", "DownForward": "roll", "DownBack": "roll",
    "Passive": "crouch", "PassiveStand": "roll", "PassiveWallJump": "jump", "ShieldBreak": "tumble",
    "ShieldBreakDown": "lie", "ShieldBreakStand": "crouch", "FuraFura": "dizzy", "Catch": "grab", "Throw": "grab",
    "Capture": "hurt", "Thrown": "tumble", "Escape": "dodge", "EscapeF": "roll", "EscapeB": "roll",
    "EscapeAir": "roll", "Rebound": "hurt", "Pass": "fall", "FlyReflect": "tumble", "MissFoot": "fall",
    "Cliff": "hang", "CliffClimb": "crouch", "CliffAttack": "strike low", "CliffEscape": "roll", "CliffJump": "jump",
    "Appeal": "cheer", "Shouldered": "grab", "Bury": "crouch", "DamageSong": "dizzy", "Special": "special",
}  # fmt: skip
"""Beginning of an action's name to its pose; the longest beginning counts."""


@cache
def find_pose(action: int) -> str:
    """The name of the pose (`POSES`) of an action."""
    name = find_action(action)
    return _BEGINNINGS[max((start for start in _BEGINNINGS if name.startswith(start)), key=len)]


COLORS: dict[str, Any] = {
    "players": ["#ff8c42", "#4fb3ff"],
    "sky": ["#0d1220", "#1b2540"],
    "body": "#2a3553",
    "ground": "#a9bbdd",
    "platform": "#a9bbdd",
    "zone": "#b4515f",
    "bright": "#ffffff",
    "text": "#e8edf8",
    "faint": "#8593b3",
    "panel": "#141b2d",
    "error": "#ffd166",
    "baseline": "#7f8db0",
}
"""Colours of the picture, by what they are for."""


@cache
def describe_look() -> Mapping[str, Any]:
    """Poses and colours as plain values, for the page."""
    return {"poses": {name: asdict(pose) for name, pose in POSES.items()}, "colors": COLORS, "gone": GONE}
