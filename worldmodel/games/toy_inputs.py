"""Who holds the pads of a toy game: a Markov chain of intentions that looks at the opponent."""

from __future__ import annotations

import bisect
import itertools
import random
from dataclasses import dataclass
from enum import StrEnum

from worldmodel.games.toy_actions import AIR_FREE, DEADS
from worldmodel.games.toy_fighter import STICK_STEPS, TRIGGER_STEPS, Fighter, Pad
from worldmodel.games.toy_physics import AERIALS, FLIES, HELPLESS


class Intent(StrEnum):
    """What a player is about to do for the next frames."""

    APPROACH = "approach"
    RETREAT = "retreat"
    WALK = "walk"
    WAIT = "wait"
    CROUCH = "crouch"
    HOP = "hop"
    JUMP_IN = "jump in"
    POKE = "poke"
    SMASH = "smash"
    GRAB = "grab"
    SHIELD = "shield"
    ROLL = "roll"
    SHOOT = "shoot"
    WAVEDASH = "wavedash"
    TAUNT = "taunt"


NEAR = {
    Intent.POKE: 6.0, Intent.SMASH: 4.0, Intent.JUMP_IN: 3.0, Intent.SHIELD: 1.5, Intent.ROLL: 0.8, Intent.GRAB: 2.0,
    Intent.RETREAT: 0.8, Intent.CROUCH: 0.5, Intent.WAVEDASH: 0.7, Intent.WAIT: 0.5,
}  # fmt: skip
FAR = {
    Intent.APPROACH: 8.0, Intent.JUMP_IN: 2.5, Intent.SHOOT: 2.0, Intent.WALK: 1.5, Intent.HOP: 1.0, Intent.WAIT: 0.7,
    Intent.RETREAT: 0.7, Intent.WAVEDASH: 0.8, Intent.CROUCH: 0.3, Intent.TAUNT: 0.2,
}  # fmt: skip
"""Weights of the next intention when the opponent is close, and when it is not."""
_CLOSE = 24.0
_SHORTEST, _LONGEST_NEAR, _LONGEST_FAR = 6, 8, 40
_DIRECTIONS = ((1, 0), (1, 0), (1, 0), (1, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (0, 0))
_FULL = STICK_STEPS


@dataclass(slots=True)
class Player:
    """A player's mind: what it does, for how long still, and its dice."""

    dice: random.Random
    skill: float
    """Share of landings in which it presses the trigger in time."""
    intent: Intent = Intent.WAIT
    age: int = 0
    length: int = 20
    toward: int = 1
    """Side on which the opponent stood when the intention began."""
    pick: tuple[int, int] = (0, 0)
    """Direction of an attack."""
    is_alert: bool = False
    has_given_up: bool = False
    """Walks off the stage: how a stock that takes too long ends."""

    def hold_pad(self, me: Fighter, foe: Fighter) -> Pad:
        """The pad of the next frame, from what the last one shows."""
        pad = Pad()
        self.age += 1
        main = me.stage.surfaces[0]
        if self.has_given_up:
            pad.x = _FULL if me.x >= 0 else -_FULL
        elif not me.on_ground and me.action not in DEADS and (abs(me.x) > main.right or me.y < 0):
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
        pad.x = -_FULL if me.x > 0 else _FULL
        if me.action not in AIR_FREE:
            pad.y = 20
        elif me.jumps_left and me.speed_y < 0:
            pad.X = not me.pad.X
        elif me.y < -8 and me.action not in HELPLESS:
            pad.y, pad.B = 60, not me.pad.B

    def _follow(self, me: Fighter, foe: Fighter, pad: Pad) -> None:
        has_arrived = self.intent in (Intent.APPROACH, Intent.WALK) and _are_close(me, foe)
        if self.intent is Intent.APPROACH:
            self.toward = 1 if foe.x > me.x else -1
        if self.age >= self.length or has_arrived:
            self._choose(me, foe)
        side = self.toward
        if abs(me.x + 14 * side) > me.stage.surfaces[0].right and self.intent != Intent.SHIELD:
            side = -1 if me.x > 0 else 1
        _PLAYS[self.intent](self, pad, side)

    def _choose(self, me: Fighter, foe: Fighter) -> None:
        dx, dy = foe.x - me.x, foe.y - me.y
        weights = NEAR if _are_close(me, foe) else FAR
        totals = list(itertools.accumulate(weights.values()))
        at = self.dice.random() * totals[-1]
        self.intent, self.age = list(weights)[bisect.bisect_right(totals, at)], 0
        self.length = _SHORTEST + int(self.dice.random() * (_LONGEST_NEAR if weights is NEAR else _LONGEST_FAR))
        self.toward = 1 if dx > 0 else -1
        direction = _DIRECTIONS[int(self.dice.random() * len(_DIRECTIONS))]
        self.pick = (direction[0] * self.toward, direction[1])
        if abs(dy) > 14 and self.dice.random() < 0.6:
            self.pick = (0, 1 if dy > 0 else -1)
        self.is_alert = self.dice.random() < self.skill

    def _tremble(self, pad: Pad) -> None:
        if pad.x or pad.y:
            pad.x = _bounded(pad.x + int(self.dice.random() * 5) - 2)
            pad.y = _bounded(pad.y + int(self.dice.random() * 5) - 2)


def _are_close(me: Fighter, foe: Fighter) -> bool:
    return abs(foe.x - me.x) < _CLOSE and abs(foe.y - me.y) < _CLOSE


def _floor(me: Fighter) -> float:
    below = [s.height for s in me.stage.surfaces if s.height <= me.y and s.left <= me.x <= s.right]
    return max(below, default=-1e9)


def _bounded(step: int) -> int:
    return max(-STICK_STEPS, min(STICK_STEPS, step))


def _approach(p: Player, pad: Pad, side: int) -> None:
    pad.x = side * _FULL if p.age > 1 else 0
    pad.A = p.is_alert and p.age == p.length - 2


def _retreat(p: Player, pad: Pad, side: int) -> None:
    pad.x = -side * _FULL if p.age > 1 else 0


def _walk(p: Player, pad: Pad, side: int) -> None:
    pad.x = side * min(24 + p.age * 2, 60)


def _wait(p: Player, pad: Pad, side: int) -> None:
    pad.trigger = int(p.age * 3) if p.is_alert and p.age < 12 else 0


def _crouch(p: Player, pad: Pad, side: int) -> None:
    pad.y = -_FULL if p.age > 1 else 0


def _hop(p: Player, pad: Pad, side: int) -> None:
    pad.x = side * 50
    pad.Y = p.age in (2, 3, 4, 5, 6) or (p.is_alert and p.age in (20, 21))
    pad.y = -_FULL if p.age > 24 else 0


def _jump_in(p: Player, pad: Pad, side: int) -> None:
    pad.x = side * 70
    pad.X = 2 <= p.age <= (4 if p.is_alert else 8)
    if 9 <= p.age <= 11:
        if p.length % 2:
            pad.c_x, pad.c_y = p.pick[0] * _FULL, p.pick[1] * _FULL
        else:
            pad.A, pad.x, pad.y = True, p.pick[0] * 60, p.pick[1] * 60
    if p.age == 22:
        pad.y = -_FULL


def _poke(p: Player, pad: Pad, side: int) -> None:
    pad.x, pad.y = p.pick[0] * 45, p.pick[1] * 45
    pad.A = p.age in (3, 4)


def _smash(p: Player, pad: Pad, side: int) -> None:
    if 3 <= p.age <= 6:
        pad.c_x, pad.c_y = (p.pick[0] * _FULL, p.pick[1] * _FULL) if any(p.pick) else (side * _FULL, 0)


def _grab(p: Player, pad: Pad, side: int) -> None:
    pad.x = side * 30
    pad.Z = p.age in (2, 3)


def _shield(p: Player, pad: Pad, side: int) -> None:
    if p.is_alert:
        pad.L, pad.trigger = 2 <= p.age < p.length - 2, TRIGGER_STEPS
    else:
        pad.trigger = min(30 + p.age * 8, TRIGGER_STEPS - 20) if p.age > 1 else 0


def _roll(p: Player, pad: Pad, side: int) -> None:
    pad.R = p.age > 1
    pad.trigger = TRIGGER_STEPS if pad.R else 0
    if 8 <= p.age <= 10:
        pad.x, pad.y = (side * (1 if p.is_alert else -1) * _FULL, 0) if p.length % 3 else (0, -_FULL)


def _shoot(p: Player, pad: Pad, side: int) -> None:
    pad.x = side * 24 if p.age < 2 else 0
    pad.B = p.age in (3, 4)
    pad.X = p.is_alert and p.age == 1


def _wavedash(p: Player, pad: Pad, side: int) -> None:
    pad.X = p.age in (2, 3)
    if 6 <= p.age <= 9:
        pad.R, pad.x, pad.y = True, -side * 70, -36
        pad.trigger = TRIGGER_STEPS


def _taunt(p: Player, pad: Pad, side: int) -> None:
    pad.D_UP = p.age in (4, 5, 6)


_PLAYS = {
    Intent.APPROACH: _approach, Intent.RETREAT: _retreat, Intent.WALK: _walk, Intent.WAIT: _wait,
    Intent.CROUCH: _crouch, Intent.HOP: _hop, Intent.JUMP_IN: _jump_in, Intent.POKE: _poke, Intent.SMASH: _smash,
    Intent.GRAB: _grab, Intent.SHIELD: _shield, Intent.ROLL: _roll, Intent.SHOOT: _shoot, Intent.WAVEDASH: _wavedash,
    Intent.TAUNT: _taunt,
}  # fmt: skip
