"""Frames as facts: the game's own values in tensors, into which a model's predictions can be written.

A view (`features/view.py`) goes from stored frames to what a model sees, and there its way ends. A rollout goes on: the
predicted frame is again a frame of the game, with whole percents, stocks and so on, and is seen through the same view.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldmodel.blocks.layout import layout_named
from worldmodel.encoding import EncodingConfig, FeatureLayout
from worldmodel.features.columns import ClassCode, ColumnPlan
from worldmodel.features.plan import Samples
from worldmodel.features.spots import send, swap_players
from worldmodel.features.store import Frames, FrameStore, Parts
from worldmodel.features.view import FeatureView
from worldmodel.schema import FIELDS, PLAYER_FIELDS, PLAYERS, STAGE, Field, Kind, field_named, fields

EVERYTHING = EncodingConfig(state_flags=True, hitstun=True).layout
"""All fields: facts do not depend on what an experiment shows its model."""
CATEGORIES = fields(Kind.CATEGORY)
"""What the last axis of `Facts.classes` holds."""


def _place_numbers() -> dict[str, slice]:
    found, place = {}, 0
    for field in (*EVERYTHING.continuous, *EVERYTHING.flags, *EVERYTHING.controls):
        found[field.name] = slice(place, place + field.bits)
        place += field.bits
    return found


NUMBER_PLACES = _place_numbers()
"""Continuous field, flag or control to its columns in `Facts.numbers` (eight for a field of eight bits)."""
CONTROL_PLACES = slice(
    NUMBER_PLACES[EVERYTHING.controls[0].name].start, NUMBER_PLACES[EVERYTHING.controls[-1].name].stop
)
"""Columns of the controls, side by side and in the schema's order."""
_COLUMN_FIELDS = [
    *(PLAYER_FIELDS.index(FIELDS[name]) for name in NUMBER_PLACES for _ in range(FIELDS[name].bits)),
    *(PLAYER_FIELDS.index(field) for field in CATEGORIES),
]  # fmt: skip
"""The field of each number, and then of each class."""


@dataclass(frozen=True)
class Facts:
    """T frames of each of B games."""

    numbers: Float[Tensor, "batch time player number"]
    """Continuous fields in the game's units, flags bit by bit (0 or 1) and controls, see `NUMBER_PLACES`. Own frames
    keep the fractions of percents here; whoever looks at them, the model included, sees whole ones."""
    classes: Int[Tensor, "batch time player class"]
    """Categories as they are stored (`ground` 65535 in the air), in the order of `CATEGORIES`."""
    stages: Int[Tensor, " batch"]
    """Stage id of each game."""
    items: Float[Tensor, "batch time player 3"] | None = None
    """The nearest item's scaled numbers (flag `projectiles`); None: no experiment here sees them."""
    lacks: Bool[Tensor, "batch player column"] | None = None
    """Numbers, and then classes, that are not recorded: 0 in true frames, and so in own ones, whatever an untrained
    head says of them; None: all are."""

    @property
    def frames(self) -> int:
        """T."""
        return self.numbers.size(1)

    @property
    def controls(self) -> Float[Tensor, "batch time player control"]:
        """The controls of each frame."""
        return self.numbers[..., CONTROL_PLACES]

    def get(self, name: str) -> Tensor:
        """(B, T, P) values of a field; (B, T, P, 8) of one of eight bits."""
        field = field_named(name)
        if field.kind is Kind.CATEGORY:
            return self.classes[..., CATEGORIES.index(field)]
        found: Tensor = self.numbers[..., NUMBER_PLACES[name]]
        found = found.round() if field.has_fraction else found
        return found if field.bits > 1 else found[..., 0]

    def cut(self, frames: slice) -> Facts:
        """Some of the frames."""
        items = None if self.items is None else self.items[:, frames]
        return Facts(self.numbers[:, frames], self.classes[:, frames], self.stages, items, self.lacks)

    def join(self, later: Facts) -> Facts:
        """These frames, and then the later ones."""
        return join_frames([self, later])

    def take(self, rows: Tensor | slice) -> Facts:
        """Some of the games."""
        items = None if self.items is None else self.items[rows]
        lacks = None if self.lacks is None else self.lacks[rows]
        return Facts(self.numbers[rows], self.classes[rows], self.stages[rows], items, lacks)

    def detach(self) -> Facts:
        """The same, through which no gradient flows."""
        items = None if self.items is None else self.items.detach()
        return Facts(self.numbers.detach(), self.classes, self.stages, items, self.lacks)

    def swap_players(self, swapped: Tensor) -> Facts:
        """The players of some games (B, 1 or 0) in each other's place."""
        items = None if self.items is None else swap_players(self.items, swapped, 2)
        numbers, classes = (swap_players(values, swapped, 2) for values in (self.numbers, self.classes))
        lacks = None if self.lacks is None else swap_players(self.lacks, swapped, 1)
        return Facts(numbers, classes, self.stages, items, lacks)

    def clear_lacks(self) -> Facts:
        """The same with 0 for what is not recorded."""
        if self.lacks is None:
            return self
        there = ~self.lacks.unsqueeze(1)
        width = self.numbers.size(-1)
        return replace(self, numbers=self.numbers * there[..., :width], classes=self.classes * there[..., width:])

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Field name to (B, T, P) array in the type that the game stores it in; eight bits are packed, lowest first."""
        return {name: as_stored(field, self.get(name)) for name, field in FIELDS.items()}


def stack_games(parts: Sequence[Facts]) -> Facts:
    """The games of several facts of as many frames, one after another."""
    if len(parts) == 1:
        return parts[0]
    items = [part.items for part in parts if part.items is not None]
    lacks = [part.lacks for part in parts if part.lacks is not None]
    return Facts(
        torch.cat([part.numbers for part in parts]),
        torch.cat([part.classes for part in parts]),
        torch.cat([part.stages for part in parts]),
        torch.cat(items) if items else None,
        torch.cat(lacks) if lacks else None,
    )


def join_frames(parts: Sequence[Facts]) -> Facts:
    """Frames of the same games, one after another."""
    items = [part.items for part in parts if part.items is not None]
    return Facts(
        torch.cat([part.numbers for part in parts], 1),
        torch.cat([part.classes for part in parts], 1),
        parts[0].stages,
        torch.cat(items, 1) if items else None,
        parts[0].lacks,
    )


def as_stored(field: Field, values: Tensor) -> np.ndarray:
    """Values of a field in the type that a game stores them in."""
    values = values.detach().cpu()
    if field.bits > 1:
        packed: np.ndarray = (values.long() << torch.arange(field.bits)).sum(-1).numpy().astype(np.uint8)
        return packed
    if field.parsed == "bool":
        return (values > 0.5).numpy()
    kind = field.tight if field.is_whole and field.tight else field.storage
    found: np.ndarray = values.numpy().astype(kind.value)
    return found


class FactReader:
    """Reads facts out of a store."""

    def __init__(
        self, config: EncodingConfig, device: torch.device | str = "cpu", untrained: Collection[str] = ()
    ) -> None:
        """`config`: the experiment, which says whether items are read. `untrained`: fields that no game recorded which
        the model was trained on; they count as not recorded."""
        self._device = torch.device(device)
        self._fields = torch.tensor(_COLUMN_FIELDS, device=self._device)
        self._untrained = torch.tensor(
            [PLAYER_FIELDS[n].name in untrained for n in _COLUMN_FIELDS], device=self._device
        )
        self._is_trained = not untrained
        names = ("tight", "wide")
        self._plans = {
            name: ColumnPlan(EVERYTHING, layout_named(name), self._device, is_scaled=False) for name in names
        }
        self._view = FeatureView(config, device)

    def read(self, store: FrameStore, samples: Samples, frames: int) -> Facts:
        """`frames` frames of each sample, from its start on; beyond a game's end its last frame is repeated."""
        games = send(samples.games, self._device)
        return self.open(store.gather(samples, frames), store.stages[games], frames, self.find_lacks(store, games))

    def find_lacks(self, store: FrameStore, games: Tensor) -> Tensor | None:
        """See `Facts.lacks`, of some games of a store."""
        if self._is_trained and store.is_complete:
            return None
        recorded: Tensor = store.recorded[games].index_select(-1, self._fields)
        return (recorded < 0.5) | self._untrained

    def open(self, parts: Parts, stages: Tensor, frames: int, lacks: Tensor | None = None) -> Facts:
        """`read` of what was gathered, on the device; `stages`, `lacks`: of each sample's game."""
        if len(parts) == 1:
            numbers, classes = self._read(parts[0][1])
        else:
            numbers = torch.empty(len(stages), frames, PLAYERS, CONTROL_PLACES.stop, device=self._device)
            shape = (len(stages), frames, PLAYERS, len(CATEGORIES))
            classes = torch.empty(shape, dtype=torch.int64, device=self._device)
            for places, found in parts:
                place = send(places, self._device)
                numbers[place], classes[place] = self._read(found)
        return Facts(numbers, classes, stages, self._read_items(parts, stages, frames), lacks)

    def _read(self, found: Frames) -> tuple[Tensor, Tensor]:
        plan = self._plans[found.layout.name]
        numbers = plan.read_numbers(found.columns).index_select(-1, plan.number_order)
        shape = (*numbers.shape[:2], PLAYERS, -1)
        return numbers.view(shape), plan.read_stored(found.columns).view(shape)

    def _read_items(self, parts: Parts, stages: Tensor, frames: int) -> Tensor | None:
        if not self._view.config.projectiles:
            return None
        seen = self._view.merge(parts, frames, stages).numbers.unflatten(-1, (PLAYERS, -1))  # type: ignore[no-untyped-call]
        layout = self._view.layout
        items: Tensor = seen[..., len(layout.continuous) : layout.continuous_width]
        return items


class FactEncoder:
    """What a model sees of facts: bit for bit what `FeatureView` makes of the same stored frames."""

    def __init__(self, layout: FeatureLayout, device: torch.device | str = "cpu") -> None:
        self.layout, self._device = layout, torch.device(device)
        seen = (*layout.continuous, *layout.flags, *layout.controls)
        places = [place for field in seen for place in range(*NUMBER_PLACES[field.name].indices(CONTROL_PLACES.stop))]
        scales = [field.scale if field.kind is Kind.CONTINUOUS else 1.0 for field in seen for _ in range(field.bits)]
        self._places = torch.tensor(places, device=self._device)
        self._scales = torch.tensor(scales, device=self._device)
        self._is_cut = torch.tensor(
            [field.has_fraction for field in seen for _ in range(field.bits)], device=self._device
        )
        self._code = ClassCode(CATEGORIES, self._device)
        names = [field.name for field in EVERYTHING.controls]
        self._buttons = torch.tensor([names.index(field.name) for field in layout.buttons], device=self._device)
        self._sees_age = layout.config.state_age_as_embed

    def encode(self, facts: Facts) -> tuple[Tensor, Tensor]:
        """`floats` and `classes` of `Inputs`, one row per frame."""
        facts = facts.clear_lacks()
        numbers = facts.numbers.index_select(-1, self._places)
        numbers = torch.where(self._is_cut, numbers.round(), numbers) * self._scales
        if facts.items is not None:
            count = len(self.layout.continuous)
            numbers = torch.cat([numbers[..., :count], facts.items, numbers[..., count:]], -1)
        classes = self._code.encode(facts.classes)
        if self._sees_age:
            age = facts.get("state_age").to(torch.int64).clamp(0, field_named("state_age").vocabulary - 1)
            classes = torch.cat([classes, age.unsqueeze(-1)], -1)
        stage = facts.stages.clamp(max=STAGE.vocabulary - 1)[:, None, None].expand(-1, facts.frames, 1)
        return numbers.flatten(-2), torch.cat([classes.flatten(-2), stage], -1)

    def encode_controls(
        self, controls: Float[Tensor, "batch time player control"], positions: int = 1
    ) -> Float[Tensor, "batch position conditions"]:
        """`controls` of `Inputs` for the last `positions` frames of T: those of each target's frame and of the frames
        between it and its context, with what was pressed since the frame before."""
        parts, last = [], controls.size(1)
        for ahead in reversed(range(1 + self.layout.config.lookahead)):
            end = last - ahead
            now = controls[:, end - positions : end]
            parts.append(now.flatten(-2))
            if self.layout.config.press_events:
                before = controls[:, end - positions - 1 : end - 1].index_select(-1, self._buttons)
                down = now.index_select(-1, self._buttons)
                parts.append(((down > 0.5) & (before < 0.5)).to(controls.dtype).flatten(-2))
        return torch.cat(parts, -1)
