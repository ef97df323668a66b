"""Which features the model sees: the flags of Round 1, and the layout that follows from them and the schema."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

from worldmodel.schema import PLAYERS, ROUND1_TERMS, STAGE, Field, Kind, Target, field_named, fields

NEAREST_ITEM_WIDTH = 3
"""dx, dy of the nearest active item and the count of active items; flag `projectiles`."""


@dataclass(frozen=True, kw_only=True)
class EncodingConfig:
    """How frames are shown to the model. Nothing of this is stored in blocks: one encoding serves every experiment."""

    state_age_as_embed: bool = False
    """1a: `state_age`, truncated to a frame count, is a learned embedding instead of a scaled number."""
    press_events: bool = False
    """2a: the controls gain one number per button: down in this frame, up in the one before."""
    lookahead: int = 0
    """3a: frames ahead of the next one that are predicted, given the controls of all frames up to it."""
    projectiles: bool = False
    """Offset of the nearest active item to each player, and the number of active items."""
    state_flags: bool = False
    """The game's 40 state bits per player, as inputs and as targets."""
    hitstun: bool = False
    """`hitstun_remaining`, as input and as target."""
    targets: Literal["all", "published"] = "all"
    """What is predicted: `published` leaves out the heads that came after Round 1 (speeds, dynamics, combat), so that
    14 numbers and 4 classes a frame remain; the inputs are the same. Losses of the two do not compare."""

    @property
    def switches(self) -> frozenset[str]:
        """The schema's switches that are on."""
        return frozenset(name for name in ("state_flags", "hitstun") if getattr(self, name))

    def has_target(self, term: str) -> bool:
        """Whether a loss term of the schema's is predicted."""
        return self.targets == "all" or term in ROUND1_TERMS

    @property
    def layout(self) -> FeatureLayout:
        """Widths and fields of the tensors that this configuration yields."""
        return _layout(self)


@dataclass(frozen=True)
class FeatureLayout:
    """The model's view of a frame under one `EncodingConfig`. All widths are per player unless they say otherwise."""

    config: EncodingConfig

    @cached_property
    def continuous(self) -> tuple[Field, ...]:
        """Scaled numbers of a player; `state_age` is absent where it is an embedding."""
        found = fields(Kind.CONTINUOUS, self.config.switches)
        return tuple(f for f in found if not (self.config.state_age_as_embed and f.name == "state_age"))

    @cached_property
    def flags(self) -> tuple[Field, ...]:
        """Flag fields; one of `bits` 8 stands for eight numbers."""
        return fields(Kind.FLAG, self.config.switches)

    @cached_property
    def controls(self) -> tuple[Field, ...]:
        """Sticks, shoulder and buttons."""
        return fields(Kind.CONTROL)

    @cached_property
    def categories(self) -> tuple[Field, ...]:
        """Embedded fields of a player; `state_age` comes last where it is one."""
        found = fields(Kind.CATEGORY)
        return (*found, field_named("state_age")) if self.config.state_age_as_embed else found

    @cached_property
    def number_columns(self) -> dict[str, slice]:
        """Continuous field or flag to its columns among a player's numbers."""
        found = {field.name: slice(place, place + 1) for place, field in enumerate(self.continuous)}
        place = self.continuous_width
        for field in self.flags:
            found[field.name] = slice(place, place + field.bits)
            place += field.bits
        return found

    @cached_property
    def class_columns(self) -> dict[str, int]:
        """Category to its column among a player's classes."""
        return {field.name: place for place, field in enumerate(self.categories)}

    @property
    def field_names(self) -> frozenset[str]:
        """Names of all fields that the model sees or predicts, the stage's included."""
        return frozenset(f.name for f in (*self.continuous, *self.flags, *self.controls, *self.categories, STAGE))

    @property
    def continuous_width(self) -> int:
        """Scaled numbers, the nearest item's included."""
        return len(self.continuous) + NEAREST_ITEM_WIDTH * self.config.projectiles

    @property
    def flag_width(self) -> int:
        """Flags as numbers."""
        return sum(f.bits for f in self.flags)

    @property
    def buttons(self) -> tuple[Field, ...]:
        """The controls that are up or down."""
        return tuple(f for f in self.controls if f.storage == "bit")

    @property
    def float_width(self) -> int:
        """Numbers of both players in a frame: [continuous, flags, controls] of player 0, then of player 1."""
        return PLAYERS * (self.continuous_width + self.flag_width + len(self.controls))

    @property
    def class_width(self) -> int:
        """Class indices in a frame: the categories of player 0, of player 1, and the stage."""
        return PLAYERS * len(self.categories) + 1

    @property
    def embedding_width(self) -> int:
        """Width of all embeddings of a frame, both players and the stage."""
        return PLAYERS * sum(f.embedding for f in self.categories) + STAGE.embedding

    @property
    def frame_width(self) -> int:
        """Width of a frame's whole input: its numbers and its embeddings."""
        return self.float_width + self.embedding_width

    @property
    def control_width(self) -> int:
        """Width of what conditions a prediction: both players' controls (and presses) of each frame up to its own."""
        presses = len(self.buttons) if self.config.press_events else 0
        return PLAYERS * (len(self.controls) + presses) * (1 + self.config.lookahead)

    @cached_property
    def number_targets(self) -> dict[str, tuple[Field, ...]]:
        """Loss term to the fields that it regresses or decides bit by bit, in head order."""
        found: dict[str, tuple[Field, ...]] = {}
        for field in (*fields(Kind.CONTINUOUS, self.config.switches), *self.flags):
            is_number = field.target in (Target.DELTA, Target.VALUE, Target.LOGIT)
            if is_number and self.config.has_target(field.loss):
                found[field.loss] = (*found.get(field.loss, ()), field)
        return found

    @cached_property
    def class_targets(self) -> dict[str, Field]:
        """Loss term to the category that it classifies."""
        found = (f for f in fields(Kind.CATEGORY) if f.target is Target.CLASS)
        return {f.loss: f for f in found if self.config.has_target(f.loss)}

    def number_width(self, term: str) -> int:
        """Numbers per player of one term of `number_targets`."""
        return sum(f.bits for f in self.number_targets[term])


@cache
def _layout(config: EncodingConfig) -> FeatureLayout:
    return FeatureLayout(config)
