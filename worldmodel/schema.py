"""Every field of a game's state, once: Arrow types, layouts, heads, losses, metrics and decoding derive from here.

A *frame* is 1/60 s of a two-player game. It holds `PLAYER_FIELDS` for each of the two players, the stage (constant in a
game) and three sparse groups that are absent from most frames: items, Nana (the Ice Climbers' partner) and moving
stage geometry. Names follow the parsed layout of slippi-ai (`slippi_db`), units are the game's own.

Scales, vocabularies and embedding widths are those of the users' `EncodingConfig`; storage types are the tightest in
which no value of the game is lost. `tight` is a narrower storage that nearly every game fits; a game that does not fit
is stored in `storage` (see `blocks/layout.py`).
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

PLAYERS = 2
FRAMES_PER_SECOND = 60
AIRBORNE = 65535
"""Value of `ground` while a player touches no surface (peppi's sentinel)."""


class Kind(StrEnum):
    """What a field is to the model."""

    CONTINUOUS = "continuous"
    FLAG = "flag"
    CATEGORY = "category"
    CONTROL = "control"


class Storage(StrEnum):
    """How a value is stored; a block has one fixed-width column for each of these."""

    FLOAT32 = "float32"
    UINT16 = "uint16"
    UINT8 = "uint8"
    BIT = "bit"


class Target(StrEnum):
    """How a field of the next frame is predicted."""

    NONE = "none"
    DELTA = "delta"
    """The scaled difference to the frame before."""
    VALUE = "value"
    """The scaled value itself."""
    LOGIT = "logit"
    CLASS = "class"


class Rule(StrEnum):
    """How a field goes on in a rollout where no prediction says so.

    Measured on 102 real games (1.63M frames of a player, fields that a game lacks left out), as the share of frames in
    which the rule gives the true next value from the true ones before.
    """

    STAY = "stay"
    """As in the frame before. character .9999, stage 1 (constant in a game by definition). Fields that only models of
    `targets: published` leave to it: stocks .9997, combo_count .998, last_attack_landed .996, l_cancel .994,
    ground .993, hurtbox_state .991, the speeds .56 (speed_air_x) to .87 (speed_attack_y). Fields of switches that are
    off are not seen by the model either: state flags .967 to .996."""
    GIVEN = "given"
    """Controls: from outside, never predicted."""
    COUNT_UP = "count up"
    """state_age: with a new action it begins where that action begins (`AGE_STARTS`: .97), it stands still while more
    than one frame of hitlag remains, and else grows as much as in the frame before, or by 1 in the second frame of an
    action: .97 within an action (a mere +1: .79), .97 in all. What is left are animations that repeat."""
    COUNT_DOWN = "count down"
    """One less, and not below 0. hitlag .991 (.998 while it is not 0). hitstun_remaining .58: outside hitstun the game
    uses that counter for other things, so a model needs its prediction (switch `hitstun`)."""


class Evidence(StrEnum):
    """When zeros in all of a game's frames prove that the file lacks a field (older replays), and are not its value."""

    NEVER = "never"
    ALWAYS = "always"
    """No real game is zero throughout."""
    HIT = "hit"
    """Players were hit at least three times in all (a percent rose): hitlag must have occurred."""
    HAS_HIT = "has hit"
    """This player's opponent was damaged at least three times."""
    MOVED = "moved"
    """This player's position changed without the field ever leaving zero."""
    AIRBORNE = "airborne"
    """This player left the ground, where the field is not zero."""
    RESPAWNED = "respawned"
    """This player lost a stock; coming back makes a player invulnerable."""
    LANDED_ATTACK = "landed an aerial attack"
    """Landing during an aerial attack (actions 70-74) always judges an L-cancel."""


class Code(StrEnum):
    """A table of the only float32 values that the console produces for an analog input; a code is an index into it."""

    STICK = "stick"
    """k/80 for k in -80..80 (the console's own steps), shifted into 0..1 as libmelee does: float32(k/80)/2 + 0.5."""
    TRIGGER = "trigger"
    """k/140 for k in 0..140."""


@cache
def code_table(code: Code) -> np.ndarray:
    """The float32 values (C,), ascending, that `code` indexes."""
    if code is Code.STICK:
        steps = np.arange(-80, 81, dtype=np.float32) / np.float32(80)
        return steps / np.float32(2) + np.float32(0.5)
    return np.arange(141, dtype=np.float32) / np.float32(140)


ROUND1_TERMS = ("continuous", "binary", "action", "jumps")
"""Loss terms (`Field.loss`) of the published Round 1: changes of percent, position and shield, flags, action, jumps."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of a player's state in a frame."""

    name: str
    """Name in this project, as in the parsed layout (dots of a nested path become underscores)."""
    kind: Kind
    storage: Storage
    """The type that holds every value; a value outside it rejects a game."""
    unit: str
    path: tuple[str, ...] = ()
    """Where it stands in the player's struct of the parsed layout; empty: under its name."""
    parsed: str = "float32"
    """Arrow type in the parsed layout that we write."""
    tight: Storage | None = None
    """A narrower storage that nearly every game fits, losslessly; None: `storage` is already tight."""
    code: Code | None = None
    """The table that `tight` indexes; None: `tight` holds the value itself."""
    bits: int = 1
    """Flags only: number of flags packed in the parsed value, lowest bit first."""
    scale: float = 1.0
    """Continuous: the model sees value x scale."""
    largest: float = math.inf
    """No game gets beyond this: a value that does is named by the audit."""
    smallest: float | None = None
    """Nor below this; None: `largest` on the other side of zero."""
    leap: float = 0.0
    """Deltas only: it changes seldom, and then by up to this. Its mean change is learned where others' median is, which
    would be none at all."""
    vocabulary: int = 0
    """Number of classes; the model clips larger values to the last."""
    embedding: int = 0
    """Width of the learned embedding."""
    empty: int | None = None
    """A stored value that means "none": it becomes class 0, and every other value v class v + 1."""
    target: Target = Target.NONE
    rule: Rule = Rule.STAY
    """How it goes on in a rollout where the model does not predict it."""
    loss: str = ""
    """The loss term (and `loss_weights` key) its prediction belongs to."""
    label: str = ""
    """The users' name in parameters and metrics (`<label>_embed`, `p0_<label>_head`); empty: the field's name."""
    switch: str = ""
    """The experiment flag that brings it in; empty: always used."""
    core: bool = False
    """A file without it is not a game; any other field may be absent from older files."""
    since: str = ""
    """First Slippi version that records it (replay specification); empty: from the beginning."""
    peppi: str = ""
    """Its place in peppi's frame (`post.hitlag`), which is what `missing_fields` of a meta.json names."""
    absence: Evidence = Evidence.NEVER
    group: str = ""
    """Fields that a replay or a converter has all or none of: they are missing only together."""

    @property
    def short(self) -> str:
        """The users' label, or the name where they are the same."""
        return self.label or self.name

    @property
    def bounds(self) -> tuple[float, float]:
        """No game has a value outside these."""
        return -self.largest if self.smallest is None else self.smallest, self.largest

    @property
    def is_whole(self) -> bool:
        """Whether it is a number that the game counts in whole steps from 0 on (`tight` holds it as an integer)."""
        return self.kind is Kind.CONTINUOUS and self.tight is not None

    @property
    def has_fraction(self) -> bool:
        """Whether what is left over when it is shown as a whole number counts on, as the game's own damage does."""
        return self.is_whole and self.target is Target.DELTA

    @property
    def column(self) -> tuple[str, ...]:
        """Path under the player's struct in the parsed layout."""
        return self.path or (self.name,)


def _continuous(name: str, scale: float, unit: str, **more: Any) -> Field:
    return Field(name=name, kind=Kind.CONTINUOUS, storage=Storage.FLOAT32, scale=scale, unit=unit, **more)


def _speed(name: str, peppi: str, meaning: str) -> Field:
    return _continuous(
        name, 0.05, f"Melee units per frame, {meaning}", target=Target.DELTA, loss="velocity", since="3.5.0",
        largest=200.0, peppi=f"post.velocities.{peppi}", absence=Evidence.MOVED, group="speeds",
    )  # fmt: skip


def _flag(name: str, unit: str, **more: Any) -> Field:
    more = {"parsed": "bool", "target": Target.LOGIT, "loss": "binary", **more}
    return Field(name=name, kind=Kind.FLAG, storage=Storage.BIT, unit=unit, **more)


def _category(name: str, storage: Storage, vocabulary: int, embedding: int, unit: str, **more: Any) -> Field:
    more = {"parsed": storage.value, "vocabulary": vocabulary, "embedding": embedding, **more}
    return Field(name=name, kind=Kind.CATEGORY, storage=storage, unit=unit, **more)


def _stick(stick: str, axis: str) -> Field:
    return Field(
        name=f"{stick}_{axis}", path=("controller", stick, axis), kind=Kind.CONTROL, storage=Storage.FLOAT32,
        tight=Storage.UINT8, code=Code.STICK, unit="0..1, neutral 0.5", rule=Rule.GIVEN, core=True,
        smallest=0.0, largest=1.0,
    )  # fmt: skip


def _button(name: str) -> Field:
    return Field(
        name=f"button_{name}", path=("controller", "buttons", name), kind=Kind.CONTROL, storage=Storage.BIT,
        parsed="bool", unit="held down", rule=Rule.GIVEN, core=True,
    )  # fmt: skip


PLAYER_FIELDS: tuple[Field, ...] = (
    # Continuous, in the order in which the users' encoder lays them out.
    _continuous("percent", 0.01, "damage in percent", parsed="uint16", tight=Storage.UINT16, target=Target.DELTA,
                smallest=0.0, largest=999.0, leap=25.0, loss="continuous", peppi="post.percent", core=True),
    _continuous("x", 0.05, "Melee units", target=Target.DELTA, loss="continuous", peppi="post.position.x",
                largest=2000.0, core=True),
    _continuous("y", 0.05, "Melee units", target=Target.DELTA, loss="continuous", peppi="post.position.y",
                largest=2000.0, core=True),
    _continuous("shield_strength", 0.01, "shield health, 60 is full", target=Target.DELTA, loss="continuous",
                smallest=0.0, largest=60.0, peppi="post.shield", absence=Evidence.ALWAYS),
    _speed("speed_air_x", "self_x_air", "own, in the air"),
    _speed("speed_y", "self_y", "own, upwards"),
    _speed("speed_ground_x", "self_x_ground", "own, on the ground"),
    _speed("speed_attack_x", "knockback_x", "from knockback"),
    _speed("speed_attack_y", "knockback_y", "from knockback, upwards"),
    _continuous("state_age", 0.01, "frames within the action, fractional where an animation is slowed",
                smallest=-100.0, largest=100_000.0, vocabulary=150, embedding=8, rule=Rule.COUNT_UP, since="0.2.0",
                peppi="post.state_age",
                absence=Evidence.ALWAYS),
    _continuous("hitlag", 0.1, "frames of hitlag that remain", tight=Storage.UINT8, target=Target.VALUE,
                smallest=0.0, largest=255.0, rule=Rule.COUNT_DOWN,
                loss="dynamics", since="3.8.0", peppi="post.hitlag", absence=Evidence.HIT),
    _continuous("stocks", 0.25, "stocks left", parsed="uint8", tight=Storage.UINT8, target=Target.VALUE,
                smallest=0.0, largest=99.0, loss="dynamics", peppi="post.stocks", absence=Evidence.ALWAYS),
    Field(name="combo_count", kind=Kind.CONTINUOUS, storage=Storage.UINT16, tight=Storage.UINT8,
          unit="hits in the current combo", parsed="uint8", scale=0.1, target=Target.VALUE, loss="dynamics",
          peppi="post.combo_count", absence=Evidence.HAS_HIT),
    _continuous("hitstun_remaining", 0.02, "frames; outside hitstun the game reuses this counter", target=Target.VALUE,
                rule=Rule.COUNT_DOWN, loss="dynamics", switch="hitstun", since="2.0.0", peppi="post.misc_as",
                absence=Evidence.ALWAYS,
                group="combat state"),
    _flag("facing", "facing right", peppi="post.direction", core=True),
    _flag("invulnerable", "cannot be hit", since="2.1.0", peppi="post.hurtbox_state", absence=Evidence.RESPAWNED,
          group="hurtbox"),
    _flag("on_ground", "touches a surface", since="2.0.0", peppi="post.airborne"),
    *(_flag(f"state_flags_{byte}", "the game's own state bits, see the replay specification", bits=8,
            switch="state_flags", since="2.0.0", peppi=f"post.state_flags.{byte}", absence=Evidence.ALWAYS,
            group="combat state") for byte in range(5)),
    # Controls: inputs of the frame, never predicted.
    _stick("main_stick", "x"), _stick("main_stick", "y"), _stick("c_stick", "x"), _stick("c_stick", "y"),
    Field(name="shoulder", path=("controller", "shoulder"), kind=Kind.CONTROL, storage=Storage.FLOAT32,
          tight=Storage.UINT8, code=Code.TRIGGER, unit="0..1, the deeper of both triggers", rule=Rule.GIVEN,
          core=True, smallest=0.0, largest=1.0),
    *(_button(name) for name in ("A", "B", "X", "Y", "Z", "L", "R", "D_UP")),
    # Categories.
    _category("action", Storage.UINT16, 400, 32, "action state id", largest=1023.0, target=Target.CLASS, loss="action",
              peppi="post.state", core=True),
    _category("jumps_left", Storage.UINT8, 8, 4, "jumps", largest=7.0, target=Target.CLASS, loss="jumps", label="jumps",
              since="2.0.0", peppi="post.jumps"),
    _category("character", Storage.UINT8, 33, 8, "internal character id (Zelda and Sheik change in a game)",
              largest=32.0,
              peppi="post.character"),
    _category("l_cancel", Storage.UINT8, 3, 2, "0 none, 1 successful, 2 missed", target=Target.CLASS, loss="l_cancel",
              largest=2.0,
              since="2.0.0", peppi="post.l_cancel", absence=Evidence.LANDED_ATTACK),
    _category("hurtbox_state", Storage.UINT8, 3, 2, "0 vulnerable, 1 invulnerable, 2 intangible", target=Target.CLASS,
              largest=2.0, loss="hurtbox", label="hurtbox", since="2.1.0",
              peppi="post.hurtbox_state", absence=Evidence.RESPAWNED,
              group="hurtbox"),
    _category("ground", Storage.UINT16, 32, 4, "surface id, 65535 in the air", empty=AIRBORNE, target=Target.CLASS,
              loss="ground",
              since="2.0.0", peppi="post.ground", absence=Evidence.AIRBORNE),
    _category("last_attack_landed", Storage.UINT8, 64, 8, "attack id", target=Target.CLASS, loss="last_attack",
              label="last_attack", peppi="post.last_attack_landed", absence=Evidence.HAS_HIT),
)  # fmt: skip

AGE_STARTS: dict[float, tuple[int, ...]] = {
    -1.0: (0, 1, 2, 178, 179, 182, 237, 324),
    1.0: (
        *range(15, 21), 39, 44, 50, 51, 53, 55, 56, 57, 60, *range(63, 70), *range(75, 92), 184, 187, 188, 189, 192,
        193, 195, 196, 197, 218, 219, 220, 222, 223, 226, *range(233, 237), 239, 240, 242, 252, *range(254, 258),
        *range(259, 264), 341, 344, 347, 349, 350, 353, 354, 360, 365, 370, 374,
    ),
    6.0: (213,), 7.0: (215,),
}  # fmt: skip
"""`state_age` in an action's first frame to the actions (ids) that begin so; all others begin at 0.

The most frequent beginning of every action that was begun ten times or more in 102 real games: right for .97 of
beginnings. From 341 on an id means another action for each character."""

REBIRTH = 12
"""The action in whose first frame a player's percent is 0 again: 459 of 459 times in 102 real games. Elsewhere percent
fell 8 times, for players who absorb projectiles."""

DEATHS = (0, 1, 2, 3)
"""The actions in whose first frame a player has one stock less: 503 of 503 times in 102 real games (3, which toy games
have, did not occur). The other 44 stocks were lost within actions 4 and 7, at their 132nd and 44th frame (41 of 41 and
3 of 3 that lasted so long). Stocks never rise."""

STAGE = Field(
    name="stage", kind=Kind.CATEGORY, storage=Storage.UINT16, parsed="int64", vocabulary=33, embedding=4, unit="id"
)
"""The stage, constant in a game. 2 Fountain of Dreams, 3 Pokemon Stadium, 8 Yoshi's Story, 28 Dream Land,
31 Battlefield, 32 Final Destination (the six tournament stages)."""

LEGAL_STAGES = {
    2: "Fountain of Dreams", 3: "Pokemon Stadium", 8: "Yoshi's Story", 28: "Dream Land", 31: "Battlefield",
    32: "Final Destination",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Sparse:
    """A group of values that most frames lack: stored as (frame, slot, values) rows wherever any value is not zero."""

    name: str
    paths: tuple[tuple[str, ...], ...]
    """Where each slot's struct stands in the parsed layout."""
    fields: tuple[tuple[str, str], ...]
    """(name, Arrow type) of each value."""


SPARSE: tuple[Sparse, ...] = (
    Sparse(
        name="items",
        paths=tuple(("items", f"item_{slot}") for slot in range(15)),
        fields=(("exists", "bool"), ("type", "uint16"), ("state", "uint8"), ("x", "float32"), ("y", "float32")),
    ),
    Sparse(
        name="nana",
        paths=tuple((f"p{player}", "nana") for player in range(PLAYERS)),
        fields=(
            ("exists", "bool"), ("percent", "uint16"), ("facing", "bool"), ("x", "float32"), ("y", "float32"),
            ("action", "uint16"), ("invulnerable", "bool"), ("character", "uint8"), ("jumps_left", "uint8"),
            ("shield_strength", "float32"), ("on_ground", "bool"),
        ),
    ),
    Sparse(name="randall", paths=(("randall",),), fields=(("x", "float32"), ("y", "float32"))),
    Sparse(name="fod_platforms", paths=(("fod_platforms",),), fields=(("left", "float32"), ("right", "float32"))),
)  # fmt: skip

UNUSED = frozenset(
    f"{group.name}.{name}" for group in SPARSE for name, _ in group.fields
    if group.name != "items" or name not in ("exists", "x", "y")
)  # fmt: skip
"""Values that are stored and shown, and that no model sees: of sparse groups, all but where items are."""

ITEM_SCALE = {"x": 0.05, "y": 0.05, "count": 0.1}
"""Scales of the nearest item's offset (Melee units) and of the number of active items; flag `projectiles`."""

FIELDS = {field.name: field for field in PLAYER_FIELDS}


def fields(kind: Kind, switches: frozenset[str] = frozenset()) -> tuple[Field, ...]:
    """The player fields of one kind, in layout order, with the optional ones that `switches` turns on."""
    return tuple(f for f in PLAYER_FIELDS if f.kind is kind and (not f.switch or f.switch in switches))


def field_named(name: str) -> Field:
    """The player field of that name."""
    return FIELDS[name]


def _nest(tree: dict[str, object]) -> pa.DataType:
    types = {k: _nest(v) if isinstance(v, dict) else pa.type_for_alias(str(v)) for k, v in tree.items()}
    return pa.struct(list(types.items()))


def _insert(tree: dict[str, object], path: tuple[str, ...], value: object) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})  # type: ignore[assignment]
    tree[path[-1]] = value


@cache
def parsed_type() -> pa.DataType:
    """The Arrow struct of one frame (`root`) in the parsed layout that we write: the users' own, field by field."""
    tree: dict[str, object] = {}
    for player in range(PLAYERS):
        for field in PLAYER_FIELDS:
            kind = "uint8" if field.bits == 8 else field.parsed
            _insert(tree, (f"p{player}", *field.column), kind)
    tree["stage"] = STAGE.parsed
    for group in SPARSE:
        for path in group.paths:
            for name, kind in group.fields:
                _insert(tree, (*path, name), kind)
    return _nest(tree)


@cache
def schema_hash() -> str:
    """16 hex digits that change whenever a stored value's place, type or meaning changes.

    Only what decides how frames are stored counts; a scale, a vocabulary or a head may change without a new encoding.
    """
    stored = [
        (f.name, f.kind, f.storage, f.tight, f.code, f.bits, f.unit) for f in (*PLAYER_FIELDS, STAGE)
    ] + [(g.name, g.paths, g.fields) for g in SPARSE]  # fmt: skip
    return hashlib.sha256(json.dumps(stored, default=str).encode()).hexdigest()[:16]


@cache
def model_hash() -> str:
    """16 hex digits that change whenever the model's view of a field changes (scale, vocabulary, target)."""
    seen = [
        (f.name, f.kind, f.scale, f.vocabulary, f.embedding, f.empty, f.target, f.loss, f.switch)
        for f in (*PLAYER_FIELDS, STAGE)
    ]
    return hashlib.sha256(json.dumps(seen, default=str).encode()).hexdigest()[:16]
