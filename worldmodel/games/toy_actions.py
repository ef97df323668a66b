"""Which action a toy fighter is in: a deterministic function of its state and its pad."""

from __future__ import annotations

from worldmodel.games.toy_fighter import FULL_SHIELD, STICK_STEPS, Fighter
from worldmodel.games.toy_physics import AIR_HITS, FLIES, GROUND_HITS, leave_ground
from worldmodel.games.toy_tables import ATTACKS, SHOT, SHOT_FRAME, Action

DEADS = frozenset({Action.DEAD_DOWN, Action.DEAD_LEFT, Action.DEAD_RIGHT, Action.DEAD_UP})
GROUND_FREE = frozenset({Action.WAIT, Action.WALK, Action.TURN, Action.DASH, Action.RUN, Action.SQUAT})
AIR_FREE = frozenset({
    Action.JUMP_F, Action.JUMP_B, Action.JUMP_AERIAL_F, Action.JUMP_AERIAL_B, Action.FALL, Action.DAMAGE_FALL,
    Action.PASS_THROUGH,
})  # fmt: skip
GUARDS = frozenset({Action.GUARD, Action.GUARD_STUN})
HITS = FLIES | AIR_HITS | GROUND_HITS
SHOTS = frozenset({Action.SHOT, Action.SHOT_AIR})
TILT, SMASH, WALK_FROM, HELD = 0.35, 0.8, 0.55, 0.25
"""Parts of a full tilt: a direction is meant, a dash or a tap is meant, walking begins, walking and running go on."""
TURN_FRAMES, DASH_FRAMES, ENTRY_FRAMES, DEAD_FRAMES, REBIRTH_FRAMES = 4, 12, 20, 20, 20
PROTECTED_FRAMES = 40
REBIRTH_HEIGHT = 120.0
SHIELD_LOSS, SHIELD_GAIN = 0.8, 0.2
"""Shield health per frame, held and not held."""
_AIR_DODGE_SPEED = 3.1

_NEXT = {
    Action.GUARD_STUN: Action.GUARD, Action.DOWN_BOUND: Action.DOWN_STAND, Action.PASS_THROUGH: Action.FALL,
    Action.AIR_DODGE: Action.FALL_SPECIAL, Action.RISE: Action.FALL_SPECIAL,
}  # fmt: skip
"""What follows an action that ends by itself; others lead to WAIT on the ground and FALL in the air."""
_LENGTH = {Action.DOWN_STAND: 8}


def decide(f: Fighter) -> None:
    """End what is over, then begin what the pad asks for and the action allows."""
    f.fires = f.action in SHOTS and f.elapsed == SHOT_FRAME
    if f.action in HITS:
        if not f.hitstun_remaining:
            f.enter(_recovered(f))
    elif f.length and f.elapsed >= f.length:
        _finish(f)
    if f.action in GROUND_FREE:
        _act_on_ground(f)
    elif f.action in AIR_FREE:
        _act_in_air(f)
    elif f.action == Action.GUARD:
        _act_in_shield(f)
    elif is_open(f):
        _begin_on_ground(f)
    _regain_shield(f)


def is_open(f: Fighter) -> bool:
    """Whether a press may begin something before the present attack (on the ground) is over."""
    if not f.on_ground:
        return False
    if f.action in SHOTS or f.action == Action.TAUNT:
        return f.elapsed > SHOT_FRAME
    return f.action in ATTACKS and f.elapsed > ATTACKS[f.action].active[1]


def _recovered(f: Fighter) -> Action:
    if f.on_ground:
        return Action.WAIT
    return Action.DAMAGE_FALL if f.action in FLIES else Action.FALL


def _finish(f: Fighter) -> None:
    action = Action(f.action)
    if action == Action.KNEE_BEND:
        _leave_jumping(f)
    elif action in DEADS:
        _revive(f)
    elif action == Action.DASH:
        f.enter(Action.RUN)
    elif action == Action.REBIRTH:
        f.speed_y = 0.0
        _drop_in(f)
    else:
        following = _NEXT.get(action, Action.WAIT if f.on_ground else Action.FALL)
        f.enter(following, _LENGTH.get(following, 0))


def _revive(f: Fighter) -> None:
    f.x, f.y, f.speed_y = 0.0, REBIRTH_HEIGHT, -1.0
    f.facing = True
    f.jumps_left = f.body.jumps
    f.enter(Action.REBIRTH, REBIRTH_FRAMES)


def _drop_in(f: Fighter) -> None:
    f.protection = PROTECTED_FRAMES
    f.jumps_left = f.body.jumps - 1
    f.enter(Action.FALL)


def _act_on_ground(f: Fighter) -> None:
    if _begin_on_ground(f):
        return
    if f.pad.is_shielding:
        f.enter(Action.GUARD)
    else:
        _walk(f)


def _begin_on_ground(f: Fighter) -> bool:
    """Begin what is pressed; False where nothing is."""
    pad, before = f.pad, f.before
    if pad.is_jumping and not before.is_jumping:
        f.enter(Action.KNEE_BEND, f.body.squat_frames)
    elif pad.is_shielding and not before.is_shielding:
        f.enter(Action.GUARD)
    elif pad.Z and not before.Z:
        f.enter(Action.GRAB, ATTACKS[Action.GRAB].frames)
    elif pad.B and not before.B and _begin_special(f):
        return True
    elif attack := _ground_attack(f):
        f.enter(attack, ATTACKS[attack].frames)
    elif pad.D_UP and not before.D_UP:
        f.enter(Action.TAUNT, 12)
    else:
        return False
    return True


def _ground_attack(f: Fighter) -> Action | None:
    pad, before = f.pad, f.before
    c_x, c_y = pad.c_x / STICK_STEPS, pad.c_y / STICK_STEPS
    if max(abs(c_x), abs(c_y)) > SMASH and max(abs(before.c_x), abs(before.c_y)) <= STICK_STEPS * SMASH:
        if abs(c_x) > abs(c_y):
            f.facing = c_x > 0
            return Action.SIDE_SMASH
        return Action.UP_SMASH if c_y > 0 else Action.DOWN_SMASH
    if not pad.A or before.A:
        return None
    if f.action in (Action.DASH, Action.RUN):
        return Action.DASH_ATTACK
    x, y = pad.x / STICK_STEPS, pad.y / STICK_STEPS
    if abs(y) > max(abs(x), TILT):
        return Action.UP_TILT if y > 0 else Action.DOWN_TILT
    if abs(x) > TILT:
        f.facing = x > 0
        return Action.SIDE_TILT
    return Action.JAB


def _begin_special(f: Fighter) -> bool:
    if f.pad.y > STICK_STEPS * TILT and f.action != Action.DAMAGE_FALL:
        f.speed_air_x = f.speed_y = 0.0
        if f.on_ground:
            leave_ground(f)
        f.is_fast_falling = False
        f.enter(Action.RISE, ATTACKS[Action.RISE].frames)
        return True
    if not f.body.shot:
        return False
    f.enter(Action.SHOT if f.on_ground else Action.SHOT_AIR, SHOT.frames)
    return True


def _walk(f: Fighter) -> None:
    x, y = f.pad.x / STICK_STEPS, f.pad.y / STICK_STEPS
    action, size = f.action, abs(x)
    if y < -0.7 and size < 0.6:
        if f.surface.is_platform and f.before.y > -0.3 * STICK_STEPS:
            leave_ground(f)
            f.enter(Action.PASS_THROUGH, 10)
        elif action != Action.SQUAT:
            f.enter(Action.SQUAT)
    elif size < HELD:
        if action not in (Action.WAIT, Action.TURN):
            f.enter(Action.WAIT)
    elif size >= WALK_FROM and action != Action.TURN and (x > 0) != f.facing:
        f.facing = x > 0
        f.enter(Action.TURN, TURN_FRAMES)
    elif size >= SMASH and action in (Action.WAIT, Action.WALK, Action.SQUAT):
        f.enter(Action.DASH, DASH_FRAMES)
    elif size >= WALK_FROM and action in (Action.WAIT, Action.SQUAT):
        f.enter(Action.WALK)


def _leave_jumping(f: Fighter) -> None:
    x = f.pad.x / STICK_STEPS
    slid = f.speed_ground_x
    leave_ground(f)
    f.speed_air_x = slid * 0.8 + x * 0.6
    f.speed_y = f.body.jump_speed if f.pad.is_jumping else f.body.hop_speed
    f.enter(Action.JUMP_B if x * f.direction < -TILT else Action.JUMP_F)


def _act_in_air(f: Fighter) -> None:
    if not _begin_in_air(f) and f.pad.y < -0.65 * STICK_STEPS and f.before.y > -0.5 * STICK_STEPS and f.speed_y < 0:
        f.is_fast_falling = True


def _begin_in_air(f: Fighter) -> bool:
    """Begin what is pressed; False where nothing is."""
    pad, before = f.pad, f.before
    if pad.is_jumping and not before.is_jumping and f.jumps_left:
        x = pad.x / STICK_STEPS
        f.jumps_left -= 1
        f.is_fast_falling = False
        f.speed_y, f.speed_air_x = f.body.double_jump_speed, x * f.body.air_speed
        f.enter(Action.JUMP_AERIAL_B if x * f.direction < -TILT else Action.JUMP_AERIAL_F)
    elif pad.is_shielding and not before.is_shielding and f.action != Action.DAMAGE_FALL:
        _air_dodge(f)
    elif pad.B and not before.B and _begin_special(f):
        return True
    elif attack := _air_attack(f):
        f.enter(attack, ATTACKS[attack].frames)
    else:
        return False
    return True


def _air_dodge(f: Fighter) -> None:
    x, y = f.pad.x / STICK_STEPS, f.pad.y / STICK_STEPS
    size = (x * x + y * y) ** 0.5
    scale = _AIR_DODGE_SPEED / size if size > TILT else 0.0
    f.speed_air_x, f.speed_y = x * scale, y * scale
    f.is_fast_falling = False
    f.enter(Action.AIR_DODGE, 10)


def _air_attack(f: Fighter) -> Action | None:
    pad, before = f.pad, f.before
    is_flicked = max(abs(pad.c_x), abs(pad.c_y)) > STICK_STEPS * SMASH
    was_flicked = max(abs(before.c_x), abs(before.c_y)) > STICK_STEPS * SMASH
    if is_flicked and not was_flicked:
        x, y = pad.c_x * f.direction, pad.c_y
    elif pad.A and not before.A:
        x, y = pad.x * f.direction, pad.y
    else:
        return None
    if max(abs(x), abs(y)) < STICK_STEPS * TILT:
        return Action.NAIR
    if abs(y) > abs(x):
        return Action.UAIR if y > 0 else Action.DAIR
    return Action.FAIR if x > 0 else Action.BAIR


def _act_in_shield(f: Fighter) -> None:
    pad, before = f.pad, f.before
    if pad.is_jumping and not before.is_jumping:
        f.enter(Action.KNEE_BEND, f.body.squat_frames)
    elif abs(pad.x) >= STICK_STEPS * 0.7 > abs(before.x):
        is_forward = (pad.x > 0) == f.facing
        f.enter(Action.ROLL_FORWARD if is_forward else Action.ROLL_BACK, 10)
    elif pad.y <= -0.7 * STICK_STEPS < before.y:
        f.enter(Action.SPOT_DODGE, 8)
    elif (pad.A and not before.A) or (pad.Z and not before.Z):
        f.enter(Action.GRAB, ATTACKS[Action.GRAB].frames)
    elif not pad.is_shielding:
        f.enter(Action.WAIT)
        _act_on_ground(f)


def _regain_shield(f: Fighter) -> None:
    if f.action in GUARDS:
        f.shield_strength = max(f.shield_strength - SHIELD_LOSS, 0.0)
        if not f.shield_strength:
            break_shield(f)
    else:
        f.shield_strength = min(f.shield_strength + SHIELD_GAIN, FULL_SHIELD)


def break_shield(f: Fighter) -> None:
    """No shield left: up into the air, then dazed."""
    leave_ground(f)
    f.speed_air_x, f.speed_y, f.shield_strength = 0.0, 2.5, FULL_SHIELD / 2
    f.enter(Action.SHIELD_BREAK)
