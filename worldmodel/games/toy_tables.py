"""What a toy game is made of: fighters, attacks and stages, with Melee's ids where the toy has a counterpart.

The numbers are of Melee's order of magnitude (units per frame, frames), chosen so that the four fighters differ; they
are not Melee's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Action(IntEnum):
    """Melee's action state ids that a toy game uses."""

    DEAD_DOWN = 0
    DEAD_LEFT = 1
    DEAD_RIGHT = 2
    DEAD_UP = 3
    REBIRTH = 12
    WAIT = 14
    WALK = 15
    TURN = 18
    DASH = 20
    RUN = 21
    KNEE_BEND = 24
    JUMP_F = 25
    JUMP_B = 26
    JUMP_AERIAL_F = 27
    JUMP_AERIAL_B = 28
    FALL = 29
    FALL_SPECIAL = 35
    DAMAGE_FALL = 38
    SQUAT = 39
    LANDING = 42
    LANDING_FALL_SPECIAL = 43
    JAB = 44
    DASH_ATTACK = 50
    SIDE_TILT = 53
    UP_TILT = 56
    DOWN_TILT = 57
    SIDE_SMASH = 60
    UP_SMASH = 63
    DOWN_SMASH = 64
    NAIR = 65
    FAIR = 66
    BAIR = 67
    UAIR = 68
    DAIR = 69
    NAIR_LANDING = 70
    FAIR_LANDING = 71
    BAIR_LANDING = 72
    UAIR_LANDING = 73
    DAIR_LANDING = 74
    DAMAGE_LIGHT = 78
    DAMAGE_MIDDLE = 79
    DAMAGE_HEAVY = 80
    DAMAGE_AIR_LIGHT = 84
    DAMAGE_AIR_MIDDLE = 85
    DAMAGE_AIR_HEAVY = 86
    DAMAGE_FLY_HIGH = 87
    DAMAGE_FLY = 88
    DAMAGE_FLY_TOP = 90
    DAMAGE_FLY_ROLL = 91
    GUARD = 179
    GUARD_STUN = 181
    DOWN_BOUND = 183
    DOWN_STAND = 186
    TECH = 199
    SHIELD_BREAK = 205
    DAZED = 211
    GRAB = 212
    ROLL_FORWARD = 233
    ROLL_BACK = 234
    SPOT_DODGE = 235
    AIR_DODGE = 236
    PASS_THROUGH = 244
    TAUNT = 264
    ENTRY = 322
    SHOT = 341
    SHOT_AIR = 344
    RISE = 354


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One attack: when and where its hitbox is, and what a hit does."""

    ident: int
    """Value of `last_attack_landed` after it hit."""
    frames: int
    """Length of the action."""
    active: tuple[int, int]
    """First and last frame within the action in which the hitbox is out; after it, a press begins something else."""
    damage: float
    angle: tuple[float, float]
    """Direction of the knockback for an attacker facing right; unit length."""
    base: float
    """Knockback at no damage."""
    growth: float
    """Knockback added per point that the formula yields."""
    reach: tuple[float, float]
    """Hitbox centre from the attacker's feet, facing right, in Melee units."""
    radius: float = 6.0
    landing_lag: int = 0
    """Frames of landing lag (aerials); half of it after an L-cancel."""
    pierces_shield: bool = False


UP, OUT, FLAT, BACK, SPIKE = (0.2, 0.98), (0.77, 0.64), (0.96, 0.28), (-0.8, 0.6), (0.3, -0.95)

ATTACKS: dict[int, Attack] = {
    Action.JAB: Attack(ident=2, frames=16, active=(2, 3), damage=6.0, angle=FLAT, base=12.0, growth=0.57,
                       reach=(9.0, 8.0)),
    Action.DASH_ATTACK: Attack(ident=6, frames=16, active=(2, 5), damage=10.0, angle=FLAT, base=15.0, growth=0.5,
                               reach=(6.0, 6.0)),
    Action.SIDE_TILT: Attack(ident=7, frames=16, active=(2, 4), damage=13.0, angle=FLAT, base=10.0, growth=0.9,
                             reach=(12.0, 8.0)),
    Action.UP_TILT: Attack(ident=8, frames=16, active=(2, 4), damage=11.0, angle=UP, base=30.0, growth=1.1,
                           reach=(3.0, 16.0)),
    Action.DOWN_TILT: Attack(ident=9, frames=16, active=(2, 3), damage=13.0, angle=FLAT, base=15.0, growth=0.5,
                             reach=(11.0, 3.0)),
    Action.SIDE_SMASH: Attack(ident=10, frames=16, active=(4, 6), damage=21.0, angle=FLAT, base=24.0, growth=1.05,
                              reach=(14.0, 8.0)),
    Action.UP_SMASH: Attack(ident=11, frames=16, active=(3, 5), damage=21.0, angle=UP, base=30.0, growth=1.1,
                            reach=(4.0, 18.0), radius=10.0),
    Action.DOWN_SMASH: Attack(ident=12, frames=16, active=(3, 5), damage=18.0, angle=FLAT, base=25.0, growth=0.8,
                              reach=(0.0, 5.0), radius=15.0),
    Action.NAIR: Attack(ident=13, frames=16, active=(2, 7), damage=13.0, angle=OUT, base=20.0, growth=1.03,
                        reach=(3.0, 7.0), landing_lag=6),
    Action.FAIR: Attack(ident=14, frames=16, active=(2, 6), damage=11.0, angle=FLAT, base=25.0, growth=0.9,
                        reach=(10.0, 8.0), landing_lag=6),
    Action.BAIR: Attack(ident=15, frames=16, active=(2, 5), damage=17.0, angle=BACK, base=22.0, growth=0.95,
                        reach=(-10.0, 8.0), landing_lag=6),
    Action.UAIR: Attack(ident=16, frames=16, active=(2, 4), damage=17.0, angle=UP, base=30.0, growth=1.0,
                        reach=(2.0, 17.0), landing_lag=6),
    Action.DAIR: Attack(ident=17, frames=16, active=(2, 7), damage=14.0, angle=SPIKE, base=15.0, growth=0.8,
                        reach=(2.0, 0.0), landing_lag=6),
    Action.GRAB: Attack(ident=52, frames=16, active=(2, 3), damage=11.0, angle=FLAT, base=15.0, growth=0.5,
                        reach=(9.0, 7.0), radius=6.0, pierces_shield=True),
    Action.RISE: Attack(ident=20, frames=16, active=(2, 5), damage=14.0, angle=OUT, base=40.0, growth=0.6,
                        reach=(2.0, 9.0)),
}  # fmt: skip

SHOT = Attack(
    ident=18, frames=16, active=(2, 2), damage=3.0, angle=FLAT, base=6.0, growth=0.11, reach=(10.0, 9.0), radius=4.0
)
"""A projectile's hit; it leaves its owner at frame `SHOT_FRAME` of the special."""
SHOT_FRAME, SHOT_LIFE = 3, 25


@dataclass(frozen=True, kw_only=True)
class Character:
    """How a fighter moves. Speeds in Melee units per frame, accelerations per frame squared."""

    ident: int
    """Character id in frames."""
    weight: float
    gravity: float
    fall_speed: float
    fast_fall_speed: float
    walk_speed: float
    dash_speed: float
    run_speed: float
    friction: float
    air_acceleration: float
    air_speed: float
    air_friction: float
    jump_speed: float
    hop_speed: float
    double_jump_speed: float
    squat_frames: int
    """Frames between the press and leaving the ground."""
    jumps: int = 2
    shot: int = 0
    """Item type of the projectile; 0: none."""
    shot_speed: float = 0.0


CHARACTERS: tuple[Character, ...] = (
    Character(ident=1, weight=75.0, gravity=0.39, fall_speed=2.8, fast_fall_speed=3.4, walk_speed=1.6,
              dash_speed=2.0, run_speed=2.2, friction=0.16, air_acceleration=0.08, air_speed=0.83,
              air_friction=0.02, jump_speed=4.6, hop_speed=2.52, double_jump_speed=5.0, squat_frames=4, shot=54,
              shot_speed=4.0),
    Character(ident=2, weight=104.0, gravity=0.22, fall_speed=2.9, fast_fall_speed=3.5, walk_speed=0.85,
              dash_speed=2.0, run_speed=2.3, friction=0.16, air_acceleration=0.06, air_speed=1.12,
              air_friction=0.01, jump_speed=3.88, hop_speed=2.28, double_jump_speed=3.5, squat_frames=4),
    Character(ident=18, weight=87.0, gravity=0.14, fall_speed=2.2, fast_fall_speed=2.5, walk_speed=1.6,
              dash_speed=1.5, run_speed=1.8, friction=0.12, air_acceleration=0.05, air_speed=0.9,
              air_friction=0.005, jump_speed=3.0, hop_speed=1.8, double_jump_speed=2.62, squat_frames=4),
    Character(ident=22, weight=80.0, gravity=0.29, fall_speed=3.1, fast_fall_speed=3.5, walk_speed=1.4,
              dash_speed=1.9, run_speed=1.5, friction=0.16, air_acceleration=0.07, air_speed=0.83,
              air_friction=0.02, jump_speed=5.12, hop_speed=2.28, double_jump_speed=4.75, squat_frames=4, shot=55,
              shot_speed=3.0),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Surface:
    """Ground to stand on."""

    ident: int
    """Value of `ground` for who stands on it."""
    left: float
    right: float
    height: float
    is_platform: bool = False
    """Can be passed through from below, and from above by pressing down."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Surfaces and the box that a fighter must not leave (Melee units)."""

    ident: int
    surfaces: tuple[Surface, ...]
    """The stage itself first, then platforms from low to high."""
    left: float
    right: float
    bottom: float
    top: float


STAGES: tuple[Stage, ...] = (
    Stage(
        ident=31,
        surfaces=(
            Surface(ident=1, left=-68.4, right=68.4, height=0.0),
            Surface(ident=2, left=-57.6, right=-20.0, height=27.2, is_platform=True),
            Surface(ident=4, left=20.0, right=57.6, height=27.2, is_platform=True),
            Surface(ident=3, left=-18.8, right=18.8, height=54.4, is_platform=True),
        ),
        left=-224.0, right=224.0, bottom=-108.8, top=200.0,
    ),
    Stage(ident=32, surfaces=(Surface(ident=1, left=-85.6, right=85.6, height=0.0),),
          left=-246.0, right=246.0, bottom=-140.0, top=188.0),
)  # fmt: skip
