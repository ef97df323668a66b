"""Features as a view: from stored frames to what the model sees and should say, on any device.

Nothing here is stored. Scales, vocabularies and the order of columns come from the schema; the flags of
`EncodingConfig` choose among them. The layout is the users': per player continuous numbers, flags, controls; classes
per player, then the stage. Deltas are differences of the scaled float32 values, as in the users' encoder.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldmodel.blocks.layout import layout_named
from worldmodel.encoding import EncodingConfig, FeatureLayout
from worldmodel.features.batch import Inputs, Targets
from worldmodel.features.columns import ColumnPlan, number_sources, register_tables
from worldmodel.features.plan import Samples, SampleShape
from worldmodel.features.spots import Traits, send, swap_players
from worldmodel.features.store import Frames, FrameStore, Items, Parts
from worldmodel.machine.fused import fused
from worldmodel.schema import (
    ITEM_SCALE,
    PLAYER_FIELDS,
    PLAYERS,
    STAGE,
    Storage,
    Target,
)  # fmt: skip

_FAR = 1e6
"""Distance given to items that are not active (Melee units)."""
Seen = tuple[tuple[Any, ...], tuple[Any, ...]]
"""The fields of `Inputs`, and those of `Targets`, in order."""


class Decoded(NamedTuple):
    """Frames as numbers and classes: everything that inputs and targets are slices of."""

    numbers: Float[Tensor, "batch time float"]
    """Player 0's numbers, then player 1's."""
    classes: Int[Tensor, "batch time class"]
    """Player 0's classes, player 1's, the stage."""


class FeatureView:
    """Turns samples of a store into inputs and targets under one configuration."""

    def __init__(self, config: EncodingConfig, device: torch.device | str = "cpu") -> None:
        self.layout: FeatureLayout = config.layout
        self.config, self.device = config, torch.device(device)
        self._columns = {name: ColumnPlan(self.layout, layout_named(name), self.device) for name in ("tight", "wide")}
        self._places = TargetPlaces(self.layout, self.device)

    def view(self, store: FrameStore, samples: Samples, shape: SampleShape) -> tuple[Inputs, Targets]:
        """Inputs and targets of some samples. Targets beyond a game's end are not valid."""
        traits = Traits(*send(store.describe_samples(samples), self.device).unbind())
        return self.open(store, store.gather(samples, shape.frames), traits, shape, swaps=samples.swapped is not None)

    def open(
        self, store: FrameStore, parts: Parts, traits: Traits, shape: SampleShape, *,
        swaps: bool,
    ) -> tuple[Inputs, Targets]:  # fmt: skip
        """`view` of frames that were gathered; all on the device.

        Args:
            store: what they were gathered from.
            parts: as `FrameStore.gather` gives them.
            traits: of all samples.
            shape: what a sample is.
            swaps: whether any of them may be swapped.
        """
        if len(parts) == 1:
            tables = (store.stages, store.recorded)
            found = look(self._places, *self._split(parts[0][1]), traits, tables, shape, swaps)
        else:
            swapped = traits.swapped if swaps else None
            seen = self.merge(parts, shape.frames, store.stages[traits.games], swapped)
            recorded = store.recorded[traits.games]
            found = cut(self._places, seen.numbers, seen.classes, traits.left, swapped, recorded, shape)
        inputs, targets = found
        return Inputs(*inputs), Targets(*targets)

    def decode(self, store: FrameStore, samples: Samples, frames: int) -> Decoded:
        """Numbers and classes of `frames` rows of each sample, whose players are where they were."""
        parts = store.gather(samples, frames)
        return self.merge(parts, frames, store.stages[send(samples.games, self.device)])

    def merge(self, parts: Parts, frames: int, stages: Tensor, swapped: Tensor | None = None) -> Decoded:
        """Numbers and classes of samples whose frames were gathered in parts."""
        if len(parts) == 1:
            return decode(*self._split(parts[0][1]), stages, swapped)
        numbers = torch.empty(len(stages), frames, self.layout.float_width, device=self.device)
        classes = torch.empty(len(stages), frames, self.layout.class_width, dtype=torch.int64, device=self.device)
        for places, found in parts:
            place = send(places, self.device)
            own = None if swapped is None else swapped[place]
            numbers[place], classes[place] = decode(*self._split(found), stages[place], own)
        return Decoded(numbers, classes)

    def count_present(self, store: FrameStore) -> dict[str, np.ndarray]:
        """Term to (G,) numbers that each game records per target frame: what a batch's terms are divided by."""
        tables = self._places.select_recorded(store.recorded)
        return {term: present.sum((1, 2)).cpu().numpy() for term, present in tables.items()}

    def _split(self, frames: Frames) -> tuple[ColumnPlan, dict[Storage, Tensor], tuple[Tensor, ...] | None]:
        """What `decode` takes of frames. Items are () where an experiment sees them and the data have none."""
        items = None if frames.items is None else (frames.items.x, frames.items.y, frames.items.active)
        return self._columns[frames.layout.name], frames.columns, (items or ()) if self.config.projectiles else None


@fused
def look(
    places: TargetPlaces,
    plan: ColumnPlan,
    columns: dict[Storage, Tensor],
    items: tuple[Tensor, ...] | None,
    traits: Traits,
    tables: tuple[Tensor, Tensor],
    shape: SampleShape,
    swaps: bool,
) -> Seen:
    """From rows to the fields of inputs and targets; `tables`: each game's stage, and what it records."""
    swapped = traits.swapped if swaps else None
    numbers, classes = decode(plan, columns, items, tables[0][traits.games], swapped)
    return cut(places, numbers, classes, traits.left, swapped, tables[1][traits.games], shape)


def decode(
    plan: ColumnPlan,
    columns: dict[Storage, Tensor],
    items: tuple[Tensor, ...] | None,
    stages: Int[Tensor, " batch"],
    swapped: Tensor | None,
) -> Decoded:
    """Numbers and classes of frames; `swapped`: which samples have their players in each other's place."""
    numbers, classes = plan.read_numbers(columns), plan.read_classes(columns)
    if items is not None:
        numbers = torch.cat([numbers, _find_items(plan, columns, items)], dim=-1)
    numbers = numbers.index_select(-1, plan.number_order)
    if swapped is not None:
        numbers, classes = (_swap(values, swapped) for values in (numbers, classes))
    stage = stages.clamp(max=STAGE.vocabulary - 1)[:, None, None].expand(-1, numbers.size(1), 1)
    return Decoded(numbers, torch.cat([classes, stage], dim=-1))


def _swap(values: Tensor, swapped: Tensor) -> Tensor:
    return swap_players(values.view(*values.shape[:-1], PLAYERS, -1), swapped, 2).flatten(2)


def cut(
    places: TargetPlaces,
    numbers: Tensor,
    classes: Tensor,
    left: Int[Tensor, " batch"],
    swapped: Tensor | None,
    recorded: Float[Tensor, "batch player field"],
    shape: SampleShape,
) -> Seen:
    """Inputs and targets out of decoded frames (B, T + 1 + lookahead, ...)."""
    end, count, ahead = shape.inputs, shape.positions, shape.lookahead
    now = slice(end - count + 1 + ahead, end + 1 + ahead)
    before = slice(now.start - 1, now.stop - 1)
    recorded = recorded if swapped is None else swap_players(recorded, swapped, 1)
    inputs = (numbers[:, :end], classes[:, :end], places.cut_controls(numbers, shape))
    targets = (
        places.cut_numbers(numbers[:, now], numbers[:, before]),
        places.cut_classes(classes[:, now]),
        places.cut_action(classes[:, end - count : end]),
        places.cut_action(classes[:, before]),
        now.start + torch.arange(count, device=left.device) < left[:, None],
        places.select_recorded(recorded),
    )
    return inputs, targets


def _find_items(plan: ColumnPlan, columns: dict[Storage, Tensor], items: tuple[Tensor, ...]) -> Tensor:
    """(B, T, P x 3): scaled dx, dy of the active item nearest to each player, and the count of active items."""
    x, y = plan.read_positions(columns)
    if not items:
        return torch.zeros(*x.shape[:2], PLAYERS * 3, device=x.device)
    return _nearest(Items(*items), x, y).flatten(2)


def _nearest(items: Items, x: Float[Tensor, "batch time player"], y: Float[Tensor, "batch time player"]) -> Tensor:
    dx, dy = items.x[:, :, None] - x[..., None], items.y[:, :, None] - y[..., None]
    active = items.active[:, :, None].expand_as(dx)
    nearest = torch.where(active, (dx**2 + dy**2).sqrt(), _FAR).argmin(-1, keepdim=True)
    count = items.active.sum(-1)[:, :, None].expand_as(x)
    found = [dx.gather(-1, nearest)[..., 0] * ITEM_SCALE["x"], dy.gather(-1, nearest)[..., 0] * ITEM_SCALE["y"]]
    found = [torch.where(count > 0, value, 0.0) for value in found]
    return torch.stack([*found, count.to(x.dtype) * ITEM_SCALE["count"]], dim=-1)


class TargetPlaces:
    """Where targets and controls lie among a frame's numbers and classes."""

    def __init__(self, features: FeatureLayout, device: torch.device) -> None:
        self._device = device
        sources, _ = number_sources(features)
        places = {(x.player, x.field.name, x.bit): x.place for x in sources}
        number = {f.name: n for n, f in enumerate(PLAYER_FIELDS)}
        self._numbers: dict[str, tuple[Tensor, bool]] = {}
        self.fields: dict[str, Tensor] = {}
        """Term to the places of its numbers' fields in `PLAYER_FIELDS`."""
        for term, fields in features.number_targets.items():
            bits = [(f, bit) for f in fields for bit in range(f.bits)]
            index = self._tensor([places[p, f.name, bit] for p in range(PLAYERS) for f, bit in bits])
            self._numbers[term] = (index, fields[0].target is Target.DELTA)
            self.fields[term] = self._tensor([number[f.name] for f, _ in bits])
        width = len(features.categories)
        names = [f.name for f in features.categories]
        self._classes: dict[str, Tensor] = {}
        for term, field in features.class_targets.items():
            self._classes[term] = self._tensor([p * width + names.index(field.name) for p in range(PLAYERS)])
            self.fields[term] = self._tensor([number[field.name]])
        self.controls = self._tensor([places[p, f.name, 0] for p in range(PLAYERS) for f in features.controls])
        self.buttons = self._tensor([places[p, f.name, 0] for p in range(PLAYERS) for f in features.buttons])
        self.has_presses = features.config.press_events

    def _tensor(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)

    def cut_controls(self, numbers: Tensor, shape: SampleShape) -> Tensor:
        """(B, N, control): for each target's frame and those between it and the context, controls, then presses."""
        parts = []
        for ahead in range(1 + shape.lookahead):
            first = shape.inputs - shape.positions + 1 + ahead
            now = numbers[:, first : first + shape.positions]
            parts.append(now.index_select(-1, self.controls))
            if self.has_presses:
                down = now.index_select(-1, self.buttons)
                before = numbers[:, first - 1 : first - 1 + shape.positions].index_select(-1, self.buttons)
                parts.append(((down > 0.5) & (before < 0.5)).to(numbers.dtype))
        return torch.cat(parts, dim=-1)

    def select_recorded(self, recorded: Tensor) -> dict[str, Tensor]:
        """Term to what games record of its fields; `recorded`: of all fields."""
        return {term: recorded.index_select(-1, place) for term, place in self.fields.items()}

    def cut_numbers(self, now: Tensor, before: Tensor) -> dict[str, Tensor]:
        """Term to (B, N, P, field): scaled deltas, or the values and bits themselves."""
        found = {}
        for term, (index, is_delta) in self._numbers.items():
            values = now.index_select(-1, index)
            values = values - before.index_select(-1, index) if is_delta else values
            found[term] = values.reshape(*values.shape[:-1], PLAYERS, -1)
        return found

    def cut_classes(self, now: Tensor) -> dict[str, Tensor]:
        """Term to (B, N, P) class indices."""
        return {term: now.index_select(-1, index) for term, index in self._classes.items()}

    def cut_action(self, frames: Tensor) -> Tensor:
        """(B, N, P) action classes."""
        return frames.index_select(-1, self._classes["action"])


register_tables(TargetPlaces)
