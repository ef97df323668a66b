"""Hits, projectiles, deaths and the state bits that tell of them in a toy game."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worldmodel.games.toy_actions import DEAD_FRAMES, DEADS, GUARDS, break_shield
from worldmodel.games.toy_fighter import FULL_SHIELD, Fighter
from worldmodel.games.toy_physics import AIR_HITS, FLIES, GROUND_HITS, leave_ground
from worldmodel.games.toy_tables import ATTACKS, SHOT, SHOT_LIFE, Action, Attack
from worldmodel.schema import AIRBORNE

_BODY_HEIGHT, _BODY_RADIUS = 7.0, 6.0
_INTANGIBLE = {
    Action.ROLL_FORWARD: (1, 6), Action.ROLL_BACK: (1, 6), Action.SPOT_DODGE: (1, 5), Action.AIR_DODGE: (1, 6),
    Action.TECH: (0, 6), Action.DOWN_STAND: (0, 6),
}  # fmt: skip
"""First and last frame of an action in which nothing hits."""
_FLY_FROM, _ROLL_FROM = 80.0, 130.0
"""Knockback from which a hit sends flying, and spinning."""
_HITSTUN_PER_KNOCKBACK, _SPEED_PER_KNOCKBACK = 0.2, 0.03
"""Frames of hitstun (half of Melee's) and units per frame of speed (Melee's) per point of knockback."""
_STUNNED = FLIES | AIR_HITS | GROUND_HITS | {Action.DAMAGE_FALL, Action.DOWN_BOUND}


@dataclass(slots=True)
class Shot:
    """A projectile."""

    owner: int
    type: int
    x: float
    y: float
    speed: float
    life: int = SHOT_LIFE


def fire_shots(fighters: Sequence[Fighter], shots: list[Shot]) -> None:
    """Move the projectiles that are there, and add those that leave now."""
    for shot in shots:
        shot.x += shot.speed
        shot.life -= 1
    shots[:] = [shot for shot in shots if shot.life > 0]
    for index, f in enumerate(fighters):
        if f.fires:
            x = f.x + f.direction * SHOT.reach[0]
            shots.append(Shot(index, f.body.shot, x, f.y + SHOT.reach[1], f.direction * f.body.shot_speed))
            f.fires = False


def resolve_hits(fighters: Sequence[Fighter], shots: list[Shot]) -> None:
    """Let every hitbox that touches the opponent hit it; both may hit each other in one frame."""
    first, second = fighters
    contacts = [(a, d) for a, d in ((first, second), (second, first)) if _strikes(a, d)]
    attacks = [ATTACKS[a.action] for a, _ in contacts]
    for (attacker, defender), attack in zip(contacts, attacks, strict=True):
        attacker.has_struck = True
        attacker.hitlag = max(attacker.hitlag, _hitlag(attack))
        attacker.is_defending = False
        hit(attacker, defender, attack, attacker.direction)
    for shot in list(shots):
        defender = fighters[1 - shot.owner]
        if _touches(shot.x, shot.y, SHOT.radius, defender):
            shots.remove(shot)
            hit(fighters[shot.owner], defender, SHOT, 1 if shot.speed > 0 else -1)
    for attacker, defender in ((first, second), (second, first)):
        if attacker.combo_count and not defender.hitlag and defender.action not in _STUNNED:
            attacker.combo_count = 0


def _hitlag(attack: Attack) -> int:
    return int(attack.damage / 5 + 2)


def _strikes(attacker: Fighter, defender: Fighter) -> bool:
    attack = ATTACKS.get(attacker.action)
    if attack is None or attacker.has_struck or attacker.hitlag:
        return False
    if not attack.active[0] <= attacker.elapsed <= attack.active[1]:
        return False
    x = attacker.x + attacker.direction * attack.reach[0]
    return _touches(x, attacker.y + attack.reach[1], attack.radius, defender)


def _touches(x: float, y: float, radius: float, defender: Fighter) -> bool:
    if defender.hurtbox_state or defender.action in DEADS:
        return False
    dx, dy, reach = x - defender.x, y - defender.y - _BODY_HEIGHT, radius + _BODY_RADIUS
    return dx * dx + dy * dy <= reach * reach


def hit(attacker: Fighter, defender: Fighter, attack: Attack, direction: int) -> None:
    """One hit: shield damage, or percent, knockback, hitstun and hitlag (Melee's formulas)."""
    defender.hitlag, defender.is_defending = _hitlag(attack), True
    if defender.action in GUARDS and not attack.pierces_shield:
        _hit_shield(defender, attack, direction)
        return
    attacker.combo_count = attacker.combo_count + 1 if defender.hitstun_remaining else 1
    attacker.last_attack_landed = attack.ident
    defender.percent += attack.damage
    knockback = _knockback(defender, attack)
    x, y = attack.angle
    speed = knockback * _SPEED_PER_KNOCKBACK
    if defender.on_ground and (y > 0.3 or knockback >= _FLY_FROM):
        leave_ground(defender)
        defender.jumps_left = defender.body.jumps - 1
        y = abs(y)
    defender.speed_attack_x = direction * x * speed
    defender.speed_attack_y = 0.0 if defender.on_ground else y * speed
    defender.speed_air_x = defender.speed_ground_x = defender.speed_y = 0.0
    defender.is_fast_falling, defender.l_cancel = False, 0
    defender.facing = defender.speed_attack_x < 0
    defender.hitstun_remaining = int(knockback * _HITSTUN_PER_KNOCKBACK)
    defender.enter(_damage_action(defender, knockback, y), defender.hitstun_remaining)


def _hit_shield(defender: Fighter, attack: Attack, direction: int) -> None:
    defender.shield_strength = max(defender.shield_strength - attack.damage, 0.0)
    if not defender.shield_strength:
        break_shield(defender)
        return
    defender.enter(Action.GUARD_STUN, int(attack.damage / 4) + 3)
    defender.speed_ground_x = defender.speed_air_x = direction * attack.damage * 0.09


def _knockback(defender: Fighter, attack: Attack) -> float:
    p, d = defender.percent, attack.damage
    return attack.base + attack.growth * ((p / 10 + p * d / 20) * 200 / (defender.body.weight + 100) * 1.4 + 18)


def _damage_action(defender: Fighter, knockback: float, rise: float) -> Action:
    if knockback >= _ROLL_FROM:
        return Action.DAMAGE_FLY_ROLL
    if knockback >= _FLY_FROM:
        return Action.DAMAGE_FLY_TOP if rise > 0.9 else Action.DAMAGE_FLY if rise < 0.5 else Action.DAMAGE_FLY_HIGH
    level = 0 if knockback < 30 else 1 if knockback < 50 else 2
    return Action((Action.DAMAGE_LIGHT if defender.on_ground else Action.DAMAGE_AIR_LIGHT) + level)


def count_losses(f: Fighter) -> None:
    """Take a stock from who left the stage's box."""
    stage = f.stage
    if f.action in DEADS or f.action == Action.REBIRTH:
        return
    side = (
        Action.DEAD_DOWN if f.y < stage.bottom
        else Action.DEAD_LEFT if f.x < stage.left
        else Action.DEAD_RIGHT if f.x > stage.right
        else Action.DEAD_UP if f.y > stage.top and f.speed_attack_y > 0
        else None
    )  # fmt: skip
    if side is None:
        return
    f.stocks -= 1
    f.percent, f.shield_strength, f.combo_count, f.last_attack_landed = 0.0, FULL_SHIELD, 0, 0
    f.speed_air_x = f.speed_y = f.speed_ground_x = f.speed_attack_x = f.speed_attack_y = 0.0
    f.hitlag = f.hitstun_remaining = 0
    f.on_ground, f.is_fast_falling, f.ground = False, False, AIRBORNE
    f.enter(side, DEAD_FRAMES)


def show_state(f: Fighter) -> None:
    """Set what follows from the rest: vulnerability and the 40 state bits.

    Bits as in the Slippi replay specification where the toy has what they tell; the first byte's are the toy's own.
    """
    window = _INTANGIBLE.get(Action(f.action))
    if window and window[0] <= f.elapsed <= window[1]:
        f.hurtbox_state = 2
    else:
        f.hurtbox_state = int(f.protection > 0 or f.action == Action.REBIRTH)
    f.protection = max(f.protection - 1, 0)
    f.invulnerable = f.hurtbox_state > 0
    attack = ATTACKS.get(f.action)
    is_out = attack is not None and attack.active[0] <= f.elapsed <= attack.active[1]
    is_dead = f.action in DEADS
    is_away = abs(f.x) > 0.75 * f.stage.right or f.y > 0.75 * f.stage.top or f.y < 0.6 * f.stage.bottom
    f.state_flags_0 = 0x40 * is_out + 0x04 * f.has_struck + 0x80 * f.invulnerable
    f.state_flags_1 = 0x08 * f.is_fast_falling + 0x20 * (f.hitlag > 0) + 0x10 * (f.hitlag > 0 and f.is_defending)
    f.state_flags_2 = 0x80 * (f.action in GUARDS)
    f.state_flags_3 = 0x02 * (f.hitstun_remaining > 0)
    f.state_flags_4 = 0x40 * is_dead + 0x80 * (is_dead or is_away)
