"""Who holds the pads of a toy game: plans drawn by dice from what the opponent's place and the own state suggest."""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from worldmodel.games.toy_actions import AIR_FREE, DEADS, GROUND_FREE, is_open
from worldmodel.games.toy_fighter import STICK_STEPS, TRIGGER_STEPS, Fighter, Pad
from worldmodel.games.toy_physics import AERIALS, FLIES, HELPLESS
from worldmodel.games.toy_tables import Action

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """What a player does for the next frames: it holds the stick somewhere, then presses something, once it can."""

    toward: float = 0.0
    """Main stick toward the opponent (away: below zero), part of a full tilt."""
    up: float = 0.0
    """Main stick upwards, part of a full tilt."""
    press: str = ""
    """The pad's button that is pressed; empty: none."""
    flick: tuple[int, int] = (0, 0)
    """Direction of a flick of the C-stick: toward the opponent, up."""
    shields: bool = False
    """Whether the trigger is held."""

    @property
    def waits(self) -> bool:
        """Whether there is something to press, for which its moment must come."""
        return bool(self.press) or any(self.flick)


DASH_IN, DASH_OUT = Plan(toward=1.0), Plan(toward=-1.0)
WALK_IN, WALK_OUT = Plan(toward=0.65), Plan(toward=-0.65)
STAND, CROUCH, SHIELD = Plan(), Plan(up=-1.0), Plan(press="L")
PRESSED: dict[Plan, float] = {
    Plan(press="A"): 1.5, Plan(up=1.0, press="A"): 1.0, Plan(up=-1.0, press="A"): 1.0,
    Plan(toward=0.65, press="A"): 0.2, Plan(press="Z"): 1.0, Plan(up=-1.0, press="Z"): 0.3, Plan(press="B"): 1.5,
    Plan(toward=1.0, press="B"): 0.3, Plan(press="X"): 0.1, Plan(toward=1.0, press="Y"): 0.2, Plan(press="D_UP"): 1.0,
    Plan(up=1.0, press="B"): 0.05, SHIELD: 2.0, Plan(flick=(0, 1)): 0.3, Plan(flick=(0, -1)): 0.2,
    Plan(flick=(1, 0)): 0.2,
}  # fmt: skip
NEAR: dict[Plan, float] = {**PRESSED, DASH_OUT: 0.7, DASH_IN: 0.2, WALK_OUT: 0.2, CROUCH: 0.3, STAND: 0.2}
FAR: dict[Plan, float] = {
    **PRESSED, DASH_IN: 1.0, DASH_OUT: 0.2, WALK_IN: 0.3, CROUCH: 0.3, STAND: 0.3,
    Plan(toward=1.0, press="A"): 1.5, Plan(toward=1.0, press="Z"): 1.0, Plan(toward=1.0, press="X"): 0.2,
}  # fmt: skip
SHIELDING: dict[Plan, float] = {
    Plan(toward=1.0, shields=True): 0.2, Plan(toward=-1.0, shields=True): 0.2, Plan(up=-1.0, shields=True): 0.3,
    Plan(press="A", shields=True): 1.0, Plan(press="Z", shields=True): 0.5, Plan(press="X", shields=True): 0.3,
    STAND: 1.0, DASH_OUT: 0.5, CROUCH: 0.5,
}  # fmt: skip
AIRBORNE: dict[Plan, float] = {
    Plan(press="A"): 0.3, Plan(toward=1.0, press="A"): 0.6, Plan(toward=-1.0, press="A"): 0.3,
    Plan(up=1.0, press="A"): 0.4, Plan(up=-1.0, press="A"): 0.3, Plan(flick=(0, 1)): 0.1, Plan(flick=(0, -1)): 0.1,
    Plan(toward=1.0, press="X"): 0.4, Plan(toward=1.0, up=-0.5, press="R"): 0.05, Plan(press="R"): 0.05,
    Plan(press="B"): 0.4, Plan(up=-1.0): 1.0, DASH_IN: 2.0,
}  # fmt: skip
"""Weights of the next plan: during an attack; the opponent close, or far; behind a shield; in the air."""
_CLOSE = 22.0
_SHORTEST, _SPREAD, _VAIN = 4, 5, 3
"""Frames (least, further) of a plan that presses nothing; times so many for one that waits in vain for its moment."""
_SETTLED = 3
"""Frames until a stick is where it is to be: nothing is pressed before."""
_PRESS_SHARE = 0.6
"""Chance in each frame that a player who can press does."""
_PRESSED, _FLICKED = 2, 3
"""Frames for which a button is down, and for which the C-stick is held."""
_FLICK, _PUSH = STICK_STEPS // 2, 18
"""Steps that a stick travels in a frame: flicked, and pushed gently (for a walk)."""


@dataclass(slots=True)
class Player:
    """A player's mind: its plan, how far that is, and its dice."""

    dice: random.Random
    skill: float
    """Share of landings in which it presses the trigger in time."""
    plan: Plan = STAND
    age: int = 0
    length: int = 8
    toward: int = 1
    """Side on which the opponent stood when the plan began."""
    pressed: int = 0
    """Frames since it pressed what the plan asks for; 0: not yet."""
    is_alert: bool = False
    has_given_up: bool = False
    """Walks off the stage: how a stock that takes too long ends."""

    def hold_pad(self, me: Fighter, foe: Fighter) -> Pad:
        """The pad of the next frame, from what the last one shows."""
        pad = Pad()
        self.age += 1
        if self.has_given_up:
            pad.x = STICK_STEPS if me.x >= 0 else -STICK_STEPS
        elif not me.on_ground and me.action not in DEADS and (abs(me.x) > me.stage.surfaces[0].right or me.y < 0):
            self._recover(me, pad)
        else:
            self._follow(me, foe, pad)
        if me.action in AERIALS and me.speed_y < 0 and 0 < me.y - _floor(me) < -3 * me.speed_y and self.is_alert:
            pad.L = not me.pad.L
        if me.action in FLIES and me.speed_attack_y + me.speed_y < 0 and self.is_alert:
            pad.R = self.age % 12 == 0
        self._tremble(pad)
        return pad

    def _recover(self, me: Fighter, pad: Pad) -> None:
        pad.x = _travel(me.pad.x, -STICK_STEPS if me.x > 0 else STICK_STEPS, _FLICK)
        if me.action not in AIR_FREE:
            pad.y = 20
        elif me.jumps_left and me.speed_y < 0:
            pad.X = not me.pad.X
        elif me.y < -8 and me.action not in HELPLESS:
            pad.y, pad.B = 60, not me.pad.B

    def _follow(self, me: Fighter, foe: Fighter, pad: Pad) -> None:
        if self._is_done:
            self._choose(me, foe)
        elif not self.pressed and self._is_able(me) and self.dice.random() < _PRESS_SHARE:
            self.pressed = 1
        side = self.toward
        if abs(me.x + 14 * side) > me.stage.surfaces[0].right:
            side = -1 if me.x > 0 else 1
        self._hold(me, pad, side)
        if self.pressed:
            self._press(me, pad, side)
            self.pressed += 1

    def _hold(self, me: Fighter, pad: Pad, side: int) -> None:
        plan = self.plan
        speed = _FLICK if abs(plan.toward) in (0, 1) else _PUSH
        pad.x = _travel(me.pad.x, int(side * plan.toward * STICK_STEPS), speed)
        pad.y = _travel(me.pad.y, int(plan.up * STICK_STEPS), _FLICK)
        pad.L, pad.trigger = plan.shields, TRIGGER_STEPS * plan.shields

    def _press(self, me: Fighter, pad: Pad, side: int) -> None:
        plan = self.plan
        if plan.press and self.pressed <= _PRESSED:
            setattr(pad, plan.press, True)
        if self.pressed <= _FLICKED:
            pad.c_x = _travel(me.pad.c_x, side * plan.flick[0] * STICK_STEPS, _FLICK)
            pad.c_y = _travel(me.pad.c_y, plan.flick[1] * STICK_STEPS, _FLICK)

    @property
    def _is_done(self) -> bool:
        if self.pressed:
            return self.pressed > (_FLICKED if any(self.plan.flick) else _PRESSED)
        return self.age >= self.length

    def _is_able(self, me: Fighter) -> bool:
        free = me.action in GROUND_FREE or me.action in AIR_FREE or me.action == Action.GUARD or is_open(me)
        return self.plan.waits and free and self.age >= _SETTLED and not me.hitlag

    def _choose(self, me: Fighter, foe: Fighter) -> None:
        self.plan = pick(_suggest(me, foe), self.dice)
        self.age = self.pressed = 0
        self.length = (_SHORTEST + int(self.dice.random() * _SPREAD)) * (_VAIN if self.plan.waits else 1)
        self.toward = 1 if foe.x > me.x else -1
        self.is_alert = self.dice.random() < self.skill

    def _tremble(self, pad: Pad) -> None:
        if pad.x or pad.y:
            pad.x = _bounded(pad.x + int(self.dice.random() * 5) - 2)
            pad.y = _bounded(pad.y + int(self.dice.random() * 5) - 2)


def pick(weights: Mapping[T, float], dice: random.Random) -> T:
    """One of the keys, as likely as its weight says."""
    totals = list(itertools.accumulate(weights.values()))
    return list(weights)[bisect.bisect_right(totals, dice.random() * totals[-1])]


def _suggest(me: Fighter, foe: Fighter) -> Mapping[Plan, float]:
    if not me.on_ground or me.action == Action.KNEE_BEND:
        return AIRBORNE
    if me.action == Action.GUARD:
        return SHIELDING
    if is_open(me):
        return PRESSED
    return NEAR if abs(foe.x - me.x) < _CLOSE and abs(foe.y - me.y) < _CLOSE else FAR


def _travel(now: int, goal: int, speed: int) -> int:
    return min(now + speed, goal) if goal > now else max(now - speed, goal)


def _floor(me: Fighter) -> float:
    below = [s.height for s in me.stage.surfaces if s.height <= me.y and s.left <= me.x <= s.right]
    return max(below, default=-1e9)


def _bounded(step: int) -> int:
    return max(-STICK_STEPS, min(STICK_STEPS, step))
