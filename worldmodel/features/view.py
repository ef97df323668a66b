"""Features as a view: from stored frames to what the model sees and should say, on any device.

Nothing here is stored. Scales, vocabularies and the order of columns come from the schema; the flags of
`EncodingConfig` choose among them. The layout is the users': per player continuous numbers, flags, controls; classes
per player, then the stage. Deltas are differences of the scaled float32 values, as in the users' encoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldmodel.blocks.layout import layout_named
from worldmodel.encoding import EncodingConfig, FeatureLayout
from worldmodel.features.batch import Inputs, Targets
from worldmodel.features.columns import ColumnPlan, number_sources
from worldmodel.features.plan import Samples, SampleShape
from worldmodel.features.store import Frames, FrameStore, Items
from worldmodel.schema import (
    ITEM_SCALE,
    PLAYER_FIELDS,
    PLAYERS,
    STAGE,
    Target,
)  # fmt: skip

_FAR = 1e6
"""Distance given to items that are not active (Melee units)."""


@dataclass(frozen=True)
class Decoded:
    """Frames as numbers and classes: everything that inputs and targets are slices of."""

    numbers: Float[Tensor, "batch time float"]
    """Player 0's numbers, then player 1's."""
    classes: Int[Tensor, "batch time class"]
    """Player 0's classes, player 1's, the stage."""

    def swap_players(self, samples: Int[Tensor, " sample"]) -> None:
        """Put the players of some samples into each other's place: the game has no first player, so both are true."""
        players = self.classes[..., :-1]
        for values in (self.numbers, players):
            _swap(values.view(*values.shape[:-1], PLAYERS, -1), samples, 2)


def _swap(values: Tensor, samples: Int[Tensor, " sample"], axis: int) -> Tensor:
    """Turn some samples' player axis around, in place."""
    values[samples] = values[samples].flip(axis)
    return values


class FeatureView:
    """Turns samples of a store into inputs and targets under one configuration."""

    def __init__(self, config: EncodingConfig, device: torch.device | str = "cpu") -> None:
        self.layout: FeatureLayout = config.layout
        self.config, self.device = config, torch.device(device)
        self._columns = {name: ColumnPlan(self.layout, layout_named(name), self.device) for name in ("tight", "wide")}
        self._places = _TargetPlaces(self.layout, self.device)

    def view(self, store: FrameStore, samples: Samples, shape: SampleShape) -> tuple[Inputs, Targets]:
        """Inputs and targets of some samples. Targets beyond a game's end are not valid."""
        decoded, present = self.decode(store, samples, shape.frames), self._present(store, samples)
        if samples.swapped is not None:
            swapped = torch.from_numpy(np.flatnonzero(samples.swapped)).to(self.device)
            decoded.swap_players(swapped)
            present = {term: _swap(table, swapped, 1) for term, table in present.items()}
        starts = torch.from_numpy(samples.starts).to(self.device)
        lengths = torch.from_numpy(store.game_lengths(samples)).to(self.device)
        first = starts + shape.inputs - shape.positions
        target = first[:, None] + torch.arange(shape.positions, device=self.device) + 1 + shape.lookahead
        return self.slice(decoded, shape, target < lengths[:, None], present)

    def decode(self, store: FrameStore, samples: Samples, frames: int) -> Decoded:
        """Numbers and classes of `frames` rows of each sample."""
        stages = store.stages[torch.from_numpy(samples.games).to(self.device)]
        parts = store.gather(samples, frames)
        if len(parts) == 1:
            return self._decode(parts[0][1], stages)
        numbers = torch.empty(len(samples), frames, self.layout.float_width, device=self.device)
        classes = torch.empty(len(samples), frames, self.layout.class_width, dtype=torch.int64, device=self.device)
        for places, found in parts:
            place = torch.from_numpy(places).to(self.device)
            part = self._decode(found, stages[place])
            numbers[place], classes[place] = part.numbers, part.classes
        return Decoded(numbers, classes)

    def slice(
        self, decoded: Decoded, shape: SampleShape, valid: Bool[Tensor, "batch position"], present: dict[str, Tensor]
    ) -> tuple[Inputs, Targets]:
        """Cut inputs and targets out of decoded frames (B, T + 1 + lookahead, ...)."""
        numbers, classes = decoded.numbers, decoded.classes
        end, count, ahead = shape.inputs, shape.positions, shape.lookahead
        inputs = Inputs(numbers[:, :end], classes[:, :end], self._controls(numbers, end, count))
        now = slice(end - count + 1 + ahead, end + 1 + ahead)
        before = slice(now.start - 1, now.stop - 1)
        context = slice(end - count, end)
        targets = Targets(
            numbers=self._places.cut_numbers(numbers[:, now], numbers[:, before]),
            classes=self._places.cut_classes(classes[:, now]),
            context_action=self._places.cut_action(classes[:, context]),
            previous_action=self._places.cut_action(classes[:, before]),
            valid=valid,
            present=present,
        )
        return inputs, targets

    def _controls(self, numbers: Tensor, end: int, count: int) -> Tensor:
        """(B, N, control): for each target's frame and those between it and the context, controls, then presses."""
        parts = []
        for ahead in range(1 + self.config.lookahead):
            now = slice(end - count + 1 + ahead, end + 1 + ahead)
            parts.append(numbers[:, now].index_select(-1, self._places.controls))
            if self.config.press_events:
                down = numbers[:, now].index_select(-1, self._places.buttons)
                before = numbers[:, now.start - 1 : now.stop - 1].index_select(-1, self._places.buttons)
                parts.append(((down > 0.5) & (before < 0.5)).to(numbers.dtype))
        return torch.cat(parts, dim=-1)

    def _present(self, store: FrameStore, samples: Samples) -> dict[str, Tensor]:
        table = store.present(samples)
        return {term: table.index_select(-1, place) for term, place in self._places.fields.items()}

    def count_present(self, store: FrameStore) -> dict[str, np.ndarray]:
        """Term to (G,) numbers that each game records per target frame: what a batch's terms are divided by."""
        every = Samples(np.arange(store.game_count), np.zeros(store.game_count, dtype=np.int64))
        return {term: present.sum((1, 2)).cpu().numpy() for term, present in self._present(store, every).items()}

    def _decode(self, frames: Frames, stages: Int[Tensor, " batch"]) -> Decoded:
        plan = self._columns[frames.layout.name]
        numbers = plan.read_numbers(frames.columns)
        if self.config.projectiles:
            numbers = torch.cat([numbers, self._nearest_items(plan, frames)], dim=-1)
        numbers = numbers.index_select(-1, plan.number_order)
        stage = stages.clamp(max=STAGE.vocabulary - 1)[:, None, None].expand(-1, numbers.size(1), 1)
        return Decoded(numbers, torch.cat([plan.read_classes(frames.columns), stage], dim=-1))

    def _nearest_items(self, plan: ColumnPlan, frames: Frames) -> Tensor:
        """(B, T, P x 3): scaled dx, dy of the active item nearest to each player, and the count of active items."""
        x, y = plan.read_positions(frames.columns)
        if frames.items is None:
            return torch.zeros(*x.shape[:2], PLAYERS * 3, device=x.device)
        return _nearest(frames.items, x, y).flatten(2)


def _nearest(items: Items, x: Float[Tensor, "batch time player"], y: Float[Tensor, "batch time player"]) -> Tensor:
    dx, dy = items.x[:, :, None] - x[..., None], items.y[:, :, None] - y[..., None]
    active = items.active[:, :, None].expand_as(dx)
    nearest = torch.where(active, (dx**2 + dy**2).sqrt(), _FAR).argmin(-1, keepdim=True)
    count = items.active.sum(-1)[:, :, None].expand_as(x)
    found = [dx.gather(-1, nearest)[..., 0] * ITEM_SCALE["x"], dy.gather(-1, nearest)[..., 0] * ITEM_SCALE["y"]]
    found = [torch.where(count > 0, value, 0.0) for value in found]
    return torch.stack([*found, count.to(x.dtype) * ITEM_SCALE["count"]], dim=-1)


class _TargetPlaces:
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

    def _tensor(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)

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
