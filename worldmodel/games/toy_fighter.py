"""A toy fighter: its state under the schema's field names, and the pad that drives it."""

from __future__ import annotations

from dataclasses import dataclass, field

from worldmodel.games.toy_tables import Action, Character, Stage, Surface
from worldmodel.schema import AIRBORNE, Code, code_table

STICK_STEPS, TRIGGER_STEPS = 80, 140
"""Largest step of a stick and of a trigger: the console's grids, see `schema.code_table`."""
STICK_VALUES = [float(value) for value in code_table(Code.STICK)]
TRIGGER_VALUES = [float(value) for value in code_table(Code.TRIGGER)]
FULL_SHIELD = 60.0
START_STOCKS = 4
ANIMATION_FRAMES = 120
"""Frames of the animation of every action that ends by itself, stretched or squeezed over the action's own length (as
Melee does with landings): how near the end is can be seen in `state_age` alone."""


@dataclass(slots=True)
class Pad:
    """A controller in one frame."""

    x: int = 0
    """Main stick, in steps of the console's grid (-80..80)."""
    y: int = 0
    c_x: int = 0
    c_y: int = 0
    trigger: int = 0
    """Steps of 1/140."""
    A: bool = False
    B: bool = False
    X: bool = False
    Y: bool = False
    Z: bool = False
    L: bool = False
    R: bool = False
    D_UP: bool = False

    @property
    def is_jumping(self) -> bool:
        """Whether a jump button is down."""
        return self.X or self.Y

    @property
    def is_shielding(self) -> bool:
        """Whether a trigger is down far enough to shield."""
        return self.L or self.R or self.trigger >= TRIGGER_STEPS * 0.3


@dataclass(slots=True)
class Fighter:
    """A fighter. The first group of attributes are the schema's fields, in its units; the rest drives the rules."""

    body: Character
    stage: Stage
    x: float
    facing: bool
    y: float = 0.0
    percent: float = 0.0
    shield_strength: float = FULL_SHIELD
    speed_air_x: float = 0.0
    speed_y: float = 0.0
    speed_ground_x: float = 0.0
    speed_attack_x: float = 0.0
    speed_attack_y: float = 0.0
    state_age: float = 0.0
    hitlag: int = 0
    stocks: int = START_STOCKS
    combo_count: int = 0
    hitstun_remaining: int = 0
    invulnerable: bool = False
    on_ground: bool = True
    state_flags_0: int = 0
    state_flags_1: int = 0
    state_flags_2: int = 0
    state_flags_3: int = 0
    state_flags_4: int = 0
    main_stick_x: float = 0.0
    main_stick_y: float = 0.0
    c_stick_x: float = 0.0
    c_stick_y: float = 0.0
    shoulder: float = 0.0
    button_A: bool = False
    button_B: bool = False
    button_X: bool = False
    button_Y: bool = False
    button_Z: bool = False
    button_L: bool = False
    button_R: bool = False
    button_D_UP: bool = False
    action: int = Action.ENTRY
    jumps_left: int = 2
    character: int = 0
    l_cancel: int = 0
    hurtbox_state: int = 0
    ground: int = AIRBORNE
    last_attack_landed: int = 0

    pad: Pad = field(default_factory=Pad)
    before: Pad = field(default_factory=Pad)
    """The pad of the frame before: a press is down now and up then."""
    elapsed: int = 0
    """Frames spent in the action, hitlag left out."""
    length: int = 0
    """Frames after which the action ends by itself; 0: never."""
    rate: float = 1.0
    """Frames of animation per frame of the game."""
    has_struck: bool = False
    """The attack has hit already; it hits once."""
    is_fast_falling: bool = False
    is_defending: bool = False
    """In hitlag because it was hit, not because it hits."""
    fires: bool = False
    """A projectile leaves in this frame."""
    protection: int = 0
    """Frames of invulnerability left after a rebirth."""
    since_guard: int = 99
    """Frames since a trigger or Z was pressed: judges L-cancels and techs."""

    def __post_init__(self) -> None:
        self.character = self.body.ident
        self.jumps_left = self.body.jumps
        self.ground = self.stage.surfaces[0].ident

    @property
    def direction(self) -> int:
        """1 facing right, -1 facing left."""
        return 1 if self.facing else -1

    @property
    def surface(self) -> Surface:
        """What it stands on, or stood on last."""
        found = [surface for surface in self.stage.surfaces if surface.ident == self.ground]
        return found[0] if found else self.stage.surfaces[0]

    def enter(self, action: int, length: int = 0) -> None:
        """Begin an action. One that ends after `length` frames shows its whole animation in them."""
        self.action, self.length = action, length
        self.rate = ANIMATION_FRAMES / length if length else 1.0
        self.elapsed, self.state_age = 0, 0.0
        self.has_struck = False

    def read_pad(self, pad: Pad) -> None:
        """Take this frame's controller, and show it in the schema's units."""
        self.before, self.pad = self.pad, pad
        self.main_stick_x, self.main_stick_y = STICK_VALUES[pad.x + STICK_STEPS], STICK_VALUES[pad.y + STICK_STEPS]
        self.c_stick_x, self.c_stick_y = STICK_VALUES[pad.c_x + STICK_STEPS], STICK_VALUES[pad.c_y + STICK_STEPS]
        self.shoulder = TRIGGER_VALUES[pad.trigger]
        self.button_A, self.button_B, self.button_X, self.button_Y = pad.A, pad.B, pad.X, pad.Y
        self.button_Z, self.button_L, self.button_R, self.button_D_UP = pad.Z, pad.L, pad.R, pad.D_UP
        pressed = (pad.Z and not self.before.Z) or (pad.is_shielding and not self.before.is_shielding)
        self.since_guard = 0 if pressed else self.since_guard + 1
