"""How a toy fighter moves: speeds, gravity, surfaces, landings. A frame moves by the speeds that it records."""

from __future__ import annotations

from worldmodel.games.toy_fighter import STICK_STEPS, Fighter
from worldmodel.games.toy_tables import ATTACKS, Action, Surface

AERIALS = frozenset({Action.NAIR, Action.FAIR, Action.BAIR, Action.UAIR, Action.DAIR})
FLIES = frozenset({Action.DAMAGE_FLY_HIGH, Action.DAMAGE_FLY, Action.DAMAGE_FLY_TOP, Action.DAMAGE_FLY_ROLL})
AIR_HITS = frozenset({Action.DAMAGE_AIR_LIGHT, Action.DAMAGE_AIR_MIDDLE, Action.DAMAGE_AIR_HEAVY})
GROUND_HITS = frozenset({Action.DAMAGE_LIGHT, Action.DAMAGE_MIDDLE, Action.DAMAGE_HEAVY})
HELPLESS = frozenset({Action.FALL_SPECIAL, Action.AIR_DODGE, Action.RISE})
_RUNS_OFF = GROUND_HITS | {Action.WALK, Action.DASH, Action.RUN, Action.TURN, Action.GUARD_STUN}
_NO_DRIFT = FLIES | AIR_HITS | {Action.AIR_DODGE, Action.SHIELD_BREAK}

KNOCKBACK_DECAY = 0.051
"""Melee's: units per frame that knockback loses in the air, along its direction."""
L_CANCEL_WINDOW, TECH_WINDOW = 7, 20
"""Frames before a landing in which a press counts (Melee's)."""
_LANDING_FRAMES, _LANDING_SPECIAL_FRAMES, _DOWN_FRAMES, _DAZED_FRAMES = 4, 8, 8, 40
_RISE_START, _RISE_SPEED = 2, 4.2
_DASH_ATTACK_SLIDE = 5
_DOWN_HELD = -0.65


def accelerate(f: Fighter) -> None:
    """This frame's speeds from the last one's, the action and the stick."""
    if f.on_ground:
        _accelerate_on_ground(f)
    elif f.action != Action.REBIRTH:
        _accelerate_in_air(f)
    _decay_knockback(f)


def _accelerate_on_ground(f: Fighter) -> None:
    body, action, stick = f.body, f.action, f.pad.x / STICK_STEPS
    if action == Action.DASH:
        f.speed_ground_x = f.direction * body.dash_speed
    elif action == Action.RUN:
        f.speed_ground_x = f.direction * body.run_speed
    elif action == Action.DASH_ATTACK and f.elapsed < _DASH_ATTACK_SLIDE:
        f.speed_ground_x = f.direction * body.dash_speed * 0.8
    elif action == Action.ROLL_FORWARD or action == Action.ROLL_BACK:
        away = 1 if action == Action.ROLL_FORWARD else -1
        f.speed_ground_x = f.direction * away * (2.4 if f.elapsed < 7 else 0.2)
    elif action == Action.WALK:
        f.speed_ground_x = _approach(f.speed_ground_x, stick * body.walk_speed, 0.3)
    else:
        f.speed_ground_x = _approach(f.speed_ground_x, 0.0, body.friction)
    f.speed_air_x, f.speed_y = f.speed_ground_x, 0.0


def _accelerate_in_air(f: Fighter) -> None:
    body, stick = f.body, f.pad.x / STICK_STEPS
    f.speed_ground_x = 0.0
    if f.action == Action.AIR_DODGE:
        f.speed_air_x, f.speed_y = f.speed_air_x * 0.9, f.speed_y * 0.9
        return
    if f.action == Action.RISE and f.elapsed <= _RISE_START:
        rising = f.elapsed == _RISE_START
        f.speed_air_x, f.speed_y = stick * 1.5 * rising, _RISE_SPEED * rising
        return
    if f.is_fast_falling:
        f.speed_y = -body.fast_fall_speed
    else:
        f.speed_y = max(f.speed_y - body.gravity, -body.fall_speed)
    if f.action in _NO_DRIFT or abs(stick) < 0.25:
        f.speed_air_x = _approach(f.speed_air_x, 0.0, body.air_friction)
    elif abs(f.speed_air_x + stick * body.air_acceleration) <= body.air_speed:
        f.speed_air_x += stick * body.air_acceleration
    else:
        f.speed_air_x = _approach(f.speed_air_x, stick * body.air_speed, body.air_acceleration)


def _approach(value: float, goal: float, step: float) -> float:
    return min(value + step, goal) if value < goal else max(value - step, goal)


def _decay_knockback(f: Fighter) -> None:
    x, y = f.speed_attack_x, f.speed_attack_y
    if not x and not y:
        return
    if f.on_ground:
        f.speed_attack_x, f.speed_attack_y = _approach(x, 0.0, f.body.friction), 0.0
        return
    size = (x * x + y * y) ** 0.5
    kept = max(size - KNOCKBACK_DECAY, 0.0) / size
    f.speed_attack_x, f.speed_attack_y = x * kept, y * kept


def move(f: Fighter) -> None:
    """Move by the frame's speeds, then land, walk off an edge or stop at a wall."""
    before_x, before_y = f.x, f.y
    f.x += (f.speed_ground_x if f.on_ground else f.speed_air_x) + f.speed_attack_x
    f.y += (0.0 if f.on_ground else f.speed_y) + f.speed_attack_y
    if f.on_ground:
        _keep_on_surface(f)
        return
    main = f.stage.surfaces[0]
    if f.y < main.height and before_y < main.height and main.left < f.x < main.right:
        f.x = main.left if before_x <= main.left else main.right if before_x >= main.right else f.x
    if f.action == Action.REBIRTH:
        return
    for surface in f.stage.surfaces:
        if _meets(f, surface, before_y):
            land(f, surface)
            return


def _keep_on_surface(f: Fighter) -> None:
    surface = f.surface
    if surface.left <= f.x <= surface.right:
        return
    if f.action in _RUNS_OFF:
        leave_ground(f)
        f.enter(Action.FALL if f.action not in GROUND_HITS else Action.DAMAGE_FALL)
    else:
        f.x = min(max(f.x, surface.left), surface.right)
        f.speed_ground_x = f.speed_air_x = f.speed_attack_x = 0.0


def _meets(f: Fighter, surface: Surface, before_y: float) -> bool:
    if not (before_y >= surface.height >= f.y and surface.left <= f.x <= surface.right and f.y < before_y):
        return False
    held_down = f.pad.y / STICK_STEPS < _DOWN_HELD and f.action not in FLIES
    return not (surface.is_platform and (held_down or f.action == Action.PASS_THROUGH))


def leave_ground(f: Fighter) -> None:
    """Into the air without a jump: that costs the jump from the ground."""
    f.on_ground = False
    f.speed_air_x, f.speed_ground_x = f.speed_ground_x, 0.0
    f.jumps_left = f.body.jumps - 1


def land(f: Fighter, surface: Surface) -> None:
    """Onto a surface; what follows depends on the action, the press before it and the landing lag."""
    f.y, f.ground, f.on_ground = surface.height, surface.ident, True
    f.jumps_left, f.is_fast_falling = f.body.jumps, False
    f.speed_ground_x, f.speed_y, f.speed_attack_y = f.speed_air_x, 0.0, 0.0
    action = f.action
    if action in AERIALS:
        _land_attacking(f)
    elif action in FLIES or action == Action.DAMAGE_FALL:
        f.hitstun_remaining = 0
        if f.since_guard <= TECH_WINDOW:
            f.speed_attack_x = 0.0
            f.enter(Action.TECH, _DOWN_FRAMES)
        else:
            f.enter(Action.DOWN_BOUND, _DOWN_FRAMES)
    elif action in HELPLESS:
        f.enter(Action.LANDING_FALL_SPECIAL, _LANDING_SPECIAL_FRAMES)
    elif action == Action.SHIELD_BREAK:
        f.enter(Action.DAZED, _DAZED_FRAMES)
    else:
        f.hitstun_remaining = 0
        f.enter(Action.LANDING, _LANDING_FRAMES)


def _land_attacking(f: Fighter) -> None:
    is_cancelled = f.since_guard < L_CANCEL_WINDOW
    lag = ATTACKS[f.action].landing_lag
    lag = lag // 2 if is_cancelled else lag
    f.l_cancel = 1 if is_cancelled else 2
    f.enter(f.action - Action.NAIR + Action.NAIR_LANDING, lag)
