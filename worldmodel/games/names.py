"""Names for people of characters, actions and stages, by the numbers that games hold.

The action states are the game's own names in the order of its numbers, as the community publishes them (Slippi's
"Melee IDs", linked from the replay specification). From 341 on each character has states of its own, by two public
lists: the decompiled game's (doldecomp/melee) and slp_parser's. In 102 real games all 240 that occur fit: those of the
ground are on the ground, those of the air in the air.
"""

from __future__ import annotations

import re
from functools import cache

from worldmodel.schema import FIELDS, LEGAL_STAGES

_ACTION_NAMES = """
DeadDown DeadLeft DeadRight DeadUp DeadUpStar DeadUpStarIce DeadUpFall DeadUpFallHitCamera
DeadUpFallHitCameraFlat DeadUpFallIce DeadUpFallHitCameraIce Sleep Rebirth RebirthWait Wait WalkSlow WalkMiddle
WalkFast Turn TurnRun Dash Run RunDirect RunBrake KneeBend JumpF JumpB JumpAerialF JumpAerialB Fall FallF FallB
FallAerial FallAerialF FallAerialB FallSpecial FallSpecialF FallSpecialB DamageFall Squat SquatWait SquatRv Landing
LandingFallSpecial Attack11 Attack12 Attack13 Attack100Start Attack100Loop Attack100End AttackDash AttackS3Hi
AttackS3HiS AttackS3S AttackS3LwS AttackS3Lw AttackHi3 AttackLw3 AttackS4Hi AttackS4HiS AttackS4S AttackS4LwS
AttackS4Lw AttackHi4 AttackLw4 AttackAirN AttackAirF AttackAirB AttackAirHi AttackAirLw LandingAirN LandingAirF
LandingAirB LandingAirHi LandingAirLw DamageHi1 DamageHi2 DamageHi3 DamageN1 DamageN2 DamageN3 DamageLw1 DamageLw2
DamageLw3 DamageAir1 DamageAir2 DamageAir3 DamageFlyHi DamageFlyN DamageFlyLw DamageFlyTop DamageFlyRoll LightGet
HeavyGet LightThrowF LightThrowB LightThrowHi LightThrowLw LightThrowDash LightThrowDrop LightThrowAirF
LightThrowAirB LightThrowAirHi LightThrowAirLw HeavyThrowF HeavyThrowB HeavyThrowHi HeavyThrowLw LightThrowF4
LightThrowB4 LightThrowHi4 LightThrowLw4 LightThrowAirF4 LightThrowAirB4 LightThrowAirHi4 LightThrowAirLw4
HeavyThrowF4 HeavyThrowB4 HeavyThrowHi4 HeavyThrowLw4 SwordSwing1 SwordSwing3 SwordSwing4 SwordSwingDash BatSwing1
BatSwing3 BatSwing4 BatSwingDash ParasolSwing1 ParasolSwing3 ParasolSwing4 ParasolSwingDash HarisenSwing1
HarisenSwing3 HarisenSwing4 HarisenSwingDash StarRodSwing1 StarRodSwing3 StarRodSwing4 StarRodSwingDash
LipStickSwing1 LipStickSwing3 LipStickSwing4 LipStickSwingDash ItemParasolOpen ItemParasolFall
ItemParasolFallSpecial ItemParasolDamageFall LGunShoot LGunShootAir LGunShootEmpty LGunShootAirEmpty
FireFlowerShoot FireFlowerShootAir ItemScrew ItemScrewAir DamageScrew DamageScrewAir ItemScopeStart ItemScopeRapid
ItemScopeFire ItemScopeEnd ItemScopeAirStart ItemScopeAirRapid ItemScopeAirFire ItemScopeAirEnd ItemScopeStartEmpty
ItemScopeRapidEmpty ItemScopeFireEmpty ItemScopeEndEmpty ItemScopeAirStartEmpty ItemScopeAirRapidEmpty
ItemScopeAirFireEmpty ItemScopeAirEndEmpty LiftWait LiftWalk1 LiftWalk2 LiftTurn GuardOn Guard GuardOff GuardSetOff
GuardReflect DownBoundU DownWaitU DownDamageU DownStandU DownAttackU DownForwardU DownBackU DownSpotU DownBoundD
DownWaitD DownDamageD DownStandD DownAttackD DownForwardD DownBackD DownSpotD Passive PassiveStandF PassiveStandB
PassiveWall PassiveWallJump PassiveCeil ShieldBreakFly ShieldBreakFall ShieldBreakDownU ShieldBreakDownD
ShieldBreakStandU ShieldBreakStandD FuraFura Catch CatchPull CatchDash CatchDashPull CatchWait CatchAttack CatchCut
ThrowF ThrowB ThrowHi ThrowLw CapturePulledHi CaptureWaitHi CaptureDamageHi CapturePulledLw CaptureWaitLw
CaptureDamageLw CaptureCut CaptureJump CaptureNeck CaptureFoot EscapeF EscapeB Escape EscapeAir ReboundStop Rebound
ThrownF ThrownB ThrownHi ThrownLw ThrownLwWomen Pass Ottotto OttottoWait FlyReflectWall FlyReflectCeil StopWall
StopCeil MissFoot CliffCatch CliffWait CliffClimbSlow CliffClimbQuick CliffAttackSlow CliffAttackQuick
CliffEscapeSlow CliffEscapeQuick CliffJumpSlow1 CliffJumpSlow2 CliffJumpQuick1 CliffJumpQuick2 AppealR AppealL
ShoulderedWait ShoulderedWalkSlow ShoulderedWalkMiddle ShoulderedWalkFast ShoulderedTurn ThrownFF ThrownFB ThrownFHi
ThrownFLw CaptureCaptain CaptureYoshi YoshiEgg CaptureKoopa CaptureDamageKoopa CaptureWaitKoopa ThrownKoopaF
ThrownKoopaB CaptureKoopaAir CaptureDamageKoopaAir CaptureWaitKoopaAir ThrownKoopaAirF ThrownKoopaAirB CaptureKirby
CaptureWaitKirby ThrownKirbyStar ThrownCopyStar ThrownKirby BarrelWait Bury BuryWait BuryJump DamageSong
DamageSongWait DamageSongRv DamageBind CaptureMewtwo CaptureMewtwoAir ThrownMewtwo ThrownMewtwoAir WarpStarJump
WarpStarFall HammerWait HammerWalk HammerTurn HammerKneeBend HammerFall HammerJump HammerLanding KinokoGiantStart
KinokoGiantStartAir KinokoGiantEnd KinokoGiantEndAir KinokoSmallStart KinokoSmallStartAir KinokoSmallEnd
KinokoSmallEndAir Entry EntryStart EntryEnd DamageIce DamageIceJump CaptureMasterhand CaptureDamageMasterhand
CaptureWaitMasterhand ThrownMasterhand CaptureKirbyYoshi KirbyYoshiEgg CaptureLeadead CaptureLikelike DownReflect
CaptureCrazyhand CaptureDamageCrazyhand CaptureWaitCrazyhand ThrownCrazyhand BarrelCannonWait
"""
_WORDS = {
    "Attack1": "jab ", "Attack100": "rapid jab ", "AttackDash": "dash attack", "AttackS3": "forward tilt ",
    "AttackHi3": "up tilt", "AttackLw3": "down tilt", "AttackS4": "forward smash ", "AttackHi4": "up smash",
    "AttackLw4": "down smash", "AttackAirN": "neutral air", "AttackAirF": "forward air", "AttackAirB": "back air",
    "AttackAirHi": "up air", "AttackAirLw": "down air", "Squat": "crouch ", "KneeBend": "jump squat",
    "Guard": "shield ", "Escape": "spot dodge", "EscapeAir": "air dodge", "EscapeF": "roll F", "EscapeB": "roll B",
    "Passive": "tech ", "Catch": "grab ",
}  # fmt: skip
"""Beginning of an action's name to what players call it; the longest beginning counts."""

_CHARACTER_NAMES = """
Mario;Fox;Captain Falcon;Donkey Kong;Kirby;Bowser;Link;Sheik;Ness;Peach;Popo;Nana;Pikachu;Samus;Yoshi;Jigglypuff;Mewtwo;
Luigi;Marth;Zelda;Young Link;Dr. Mario;Falco;Pichu;Mr. Game & Watch;Ganondorf;Roy;Master Hand;Crazy Hand;
Wireframe Male;Wireframe Female;Giga Bowser;Sandbag
"""
_MOVES = {
    "Mario": "Fireball, Cape, Super Jump Punch, Mario Tornado",
    "Dr. Mario": "Megavitamins, Super Sheet, Super Jump Punch, Dr. Tornado",
    "Fox": "Blaster, Fox Illusion, Fire Fox, Reflector",
    "Falco": "Blaster, Falco Phantasm, Fire Bird, Reflector",
    "Captain Falcon": "Falcon Punch, Raptor Boost, Falcon Dive, Falcon Kick",
    "Ganondorf": "Warlock Punch, Gerudo Dragon, Dark Dive, Wizard's Foot",
    "Donkey Kong": "Giant Punch, Headbutt, Spinning Kong, Hand Slap",
    "Kirby": "Swallow, Hammer, Final Cutter, Stone",
    "Bowser": "Fire Breath, Koopa Klaw, Whirling Fortress, Bowser Bomb",
    "Link": "Bow, Boomerang, Spin Attack, Bomb",
    "Young Link": "Fire Bow, Boomerang, Spin Attack, Bomb",
    "Sheik": "Needle Storm, Chain, Vanish, Transform",
    "Zelda": "Nayru's Love, Din's Fire, Farore's Wind, Transform",
    "Ness": "PK Flash, PK Fire, PK Thunder, PSI Magnet",
    "Peach": "Toad, Peach Bomber, Peach Parasol, Vegetable",
    "Popo": "Ice Shot, Squall Hammer, Belay, Blizzard",
    "Pikachu": "Thunder Jolt, Skull Bash, Quick Attack, Thunder",
    "Pichu": "Thunder Jolt, Skull Bash, Agility, Thunder",
    "Samus": "Charge Shot, Missile, Screw Attack, Bomb",
    "Yoshi": "Egg Lay, Egg Roll, Egg Throw, Yoshi Bomb",
    "Jigglypuff": "Rollout, Pound, Sing, Rest",
    "Mewtwo": "Shadow Ball, Confusion, Teleport, Disable",
    "Luigi": "Fireball, Green Missile, Super Jump Punch, Luigi Cyclone",
    "Marth": "Shield Breaker, Dancing Blade, Dolphin Slash, Counter",
    "Roy": "Flare Blade, Double-Edge Dance, Blazer, Counter",
    "Mr. Game & Watch": "Chef, Judgment, Fire, Oil Panic",
}
"""A character's special moves: neutral, side, up, down."""
_STATES = {
    "Mario, Dr. Mario": "taunt:right,left; N:|; S:|; U:|; D:|",
    "Fox, Falco": "N:start,loop,end|; S:start,,end|; U:start,air start,,air,landing,fall,bounce; "
    "D:start,loop,hit,end,turn|; taunt:start right,start left,right,left,end right,end left",
    "Captain Falcon, Ganondorf": "?:,,,,,; N:|; S:start,hit|; U:,air,catch,throw; "
    "D:,end,air,air landing,air end,end in the air,rebound",
    "Donkey Kong": "?:,,,,,,,,,; cargo:wait,walk slow,walk middle,walk fast,turn,jump squat,fall,jump,landing,?; "
    "cargo throw:forward,back,up,down|; N:start,loop,stop,early,full|; S:|; U:|; D:start,loop,end,?",
    "Kirby": "jump:2,3,4,5,6; jump with hat:2,3,4,5,6; dash attack:|; N:start,loop,end,capture,?,captured,wait,"
    "walk slow,walk middle,walk fast,turn,jump squat,jump,landing,digest,?,spit,?,air start,air loop,air end,"
    "air capture,?,air captured,air wait,air digest,?,air spit,?,air turn; S:|; "
    "U:start,?,?,end,air start,air apex,descent,air end; D:start,,end|",
    "Bowser": "N:start,loop,end|; S:,catch,hit,wait,throw forward,throw back|; U:|; D:start,air,landing",
    "Link, Young Link": "forward smash:2; taunt:right,left; N:start,loop,end|; S:throw,catch,empty throw|; U:|; D:|; "
    "air grab:,hit",
    "Sheik": "N:start,loop,cancel,fire|; S:start,,end|; U:start,disappear,reappear|; D:,end|",
    "Zelda": "N:|; S:start,hold,end|; U:start,disappear,reappear|; D:,end|",
    "Ness": "forward smash:; up smash:,charge,release; down smash:,charge,release; N:start,hold,release,end|; S:|; "
    "U:start,hold,end,hit|; U:air rebound; D:start,hold,hit,end,turn|",
    "Peach": "float:,end forward,end back; float attack:neutral,forward,back,up,down; "
    "forward smash:club,pan,racket; D:|; S:start,end,?,air start,air end,air hit,air; U:start,?,air start,?; "
    "N:,attack|; parasol:opening,open",
    "Popo": "N:|; S:,together|; U:start,,?,fail,fail end,air start,air,?,air fail,air fail end; D:|",
    "Pikachu, Pichu": "N:|; S:start,charge,?,landing,takeoff,air start,air charge,air,air end,air takeoff; "
    "U:start,,end|; D:start,,hit,end|",
    "Samus": "bomb jump:|; N:start,hold,cancel,fire,air start,air fire; S:,smash|; U:|; D:|; air grab:,hit",
    "Yoshi": "shield:buffered start,hold,release,damage,start; N:,capture start,?,capture,?|; "
    "S:start,,turn,end,air start,air,bounce,air end; U:|; D:,landing,air",
    "Jigglypuff": "jump:2,3,4,5,6; N:start right,start left,loop,full,release,turn,end right,end left|; N:hit; S:|; "
    "U:left,air left,right,air right; D:left,air left,right,air right",
    "Mewtwo": "N:start,loop,full,cancel,fire|; S:|; U:start,disappear,reappear|; D:|",
    "Luigi": "N:|; S:start,charge,?,landing,takeoff,misfire,air start,air charge,air,air end,air takeoff,"
    "air misfire; U:|; D:|",
    "Marth, Roy": "N:start,loop,early,full|; S:1,2 up,2 side,3 up,3 side,3 down,4 up,4 side,4 down|; U:|; D:,hit|",
    "Mr. Game & Watch": "jab:; rapid jab:start,loop,end; down tilt:; forward smash:; neutral air:; back air:; "
    "up air:; neutral air:landing; back air:landing; up air:landing; N:|; S:1,2,3,4,5,6,7,8,9|; U:|; D:,catch,spill|",
}
"""A character's own states from 341 on: move (N, S, U, D as above; ?: unknown) and its phases; |: again in the air."""
_OTHER_STAGES = """
Princess Peach's Castle;Kongo Jungle;Brinstar;Corneria;;Onett;Mute City;Rainbow Cruise;Jungle Japes;Great Bay;
Hyrule Temple;Brinstar Depths;Yoshi's Island;Green Greens;Fourside;Mushroom Kingdom I;Mushroom Kingdom II;;Venom;
Poké Floats;Big Blue;Icicle Mountain;Icetop;Flat Zone;;Yoshi's Island N64;Kongo Jungle N64
"""
"""From 4 on, by the numbers of the game's start block; the tournament stages are left out."""
_ACTIONS = _ACTION_NAMES.split()
_CHARACTERS = _CHARACTER_NAMES.replace("\n", "").split(";")
_STAGES = dict(enumerate(_OTHER_STAGES.replace("\n", "").split(";"), 4)) | LEGAL_STAGES
_COLUMN = re.compile(rf"\bp([01])\.(?=(?:{'|'.join(FIELDS)})\b)")
FIRST_SPECIAL = len(_ACTIONS)
"""From here on an action means something else for each character."""


def find_action(number: int) -> str:
    """The game's own name of an action, such as `AttackAirF`; `Special341` where it is the character's own."""
    return _ACTIONS[number] if 0 <= number < FIRST_SPECIAL else f"Special{number}"


def name_action(number: int, character: int) -> str:
    """An action of a character (internal id) for people, such as `forward air`, or `Blaster air loop`."""
    if number >= FIRST_SPECIAL:
        own = _list_states(name_character(character))
        known = own[number - FIRST_SPECIAL] if number - FIRST_SPECIAL < len(own) else ""
        return known or f"{name_character(character)} special {number}"
    name = find_action(number)
    start = max((start for start in _WORDS if name.startswith(start)), key=len, default="")
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]*|\d+", name.removeprefix(start))
    return " ".join([*_WORDS.get(start, "").split(), *(word if len(word) == 1 else word.lower() for word in words)])


def name_character(number: int) -> str:
    """A character (internal id) for people."""
    return _CHARACTERS[number] if 0 <= number < len(_CHARACTERS) else f"character {number}"


def name_stage(number: int) -> str:
    """A stage (number of the start block) for people."""
    return _STAGES.get(number) or f"stage {number}"


def name_players(text: str) -> str:
    """Columns such as `p0.x`, as games name them, for people: `P1 x`."""
    return _COLUMN.sub(lambda found: f"P{int(found[1]) + 1} ", text)


@cache
def _list_states(character: str) -> list[str]:
    """Names of a character's own states; empty where only the number is known."""
    moves = dict(zip("NSUD", _MOVES.get(character, "").split(", "), strict=False))
    layout = next((layout for names, layout in _STATES.items() if character in names.split(", ")), "")
    found: list[str] = []
    for group in filter(None, layout.split("; ")):
        move, phases = group.split(":")
        listed = phases.rstrip("|").split(",")
        for phase in [*listed, *(f"air {phase}" for phase in listed if phases.endswith("|"))]:
            number = str(FIRST_SPECIAL + len(found))
            found.append("" if move == "?" else f"{moves.get(move, move)} {phase.replace('?', number)}".strip())
    return found
