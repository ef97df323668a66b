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

from worldmodel.blocks.layout import Layout, layout_named
from worldmodel.encoding import EncodingConfig, FeatureLayout
from worldmodel.features.batch import Inputs, Targets
from worldmodel.features.plan import Samples, SampleShape
from worldmodel.features.store import Frames, FrameStore, Items
from worldmodel.schema import (
    ITEM_SCALE,
    PLAYER_FIELDS,
    PLAYERS,
    STAGE,
    Code,
    Field,
    Kind,
    Storage,
    Target,
    code_table,
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
        self._columns = {name: _ColumnPlan(self.layout, layout_named(name), self.device) for name in ("tight", "wide")}
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

    def _nearest_items(self, plan: _ColumnPlan, frames: Frames) -> Tensor:
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


@dataclass(frozen=True)
class _Source:
    """Where one output number comes from, and its place in the users' order."""

    player: int
    field: Field
    bit: int
    place: int


class _ColumnPlan:
    """Which stored columns become which numbers and classes, as index tensors: a handful of gathers for all fields."""

    def __init__(self, features: FeatureLayout, layout: Layout, device: torch.device) -> None:
        self._device = device
        self._layout = layout
        sources, items = _number_sources(features)
        plain = {s: [x for x in sources if self._storage(x) is s and not layout.code(x.field)] for s in Storage}
        coded = [x for x in sources if layout.code(x.field)]
        self._plain = {
            s: (self._index(found), self._scales(found)) for s, found in plain.items() if s is not Storage.BIT
        }
        self._coded = self._index(coded)
        self._tables, self._table_of = self._code_tables(coded)
        bits = [layout.places[x.player, x.field.name][1] + x.bit for x in plain[Storage.BIT]]
        self._bytes, self._shifts = (
            self._tensor([b // 8 for b in bits]),
            self._tensor([b % 8 for b in bits]).to(torch.uint8),
        )
        read = [*plain[Storage.FLOAT32], *plain[Storage.UINT16], *plain[Storage.UINT8], *coded, *plain[Storage.BIT]]
        self.number_order = torch.argsort(self._tensor([*(x.place for x in read), *items]))
        self._plan_classes(features)

    def _plan_classes(self, features: FeatureLayout) -> None:
        wanted = [(p, f) for p in range(PLAYERS) for f in features.categories]
        read: list[int] = []
        self._class_columns: list[tuple[Storage, Tensor]] = []
        for storage in (Storage.FLOAT32, Storage.UINT16, Storage.UINT8):
            chosen = [n for n, (_, f) in enumerate(wanted) if self._layout.storage(f) is storage]
            places = [self._layout.places[wanted[n][0], wanted[n][1].name][1] for n in chosen]
            self._class_columns.append((storage, self._tensor(places)))
            read += chosen
        self._class_order = torch.argsort(self._tensor(read))
        self._empty = self._tensor([-1 if f.empty is None else f.empty for _, f in wanted])
        self._shift = self._tensor([0 if f.empty is None else 1 for _, f in wanted])
        self._highest = self._tensor([f.vocabulary - 1 for _, f in wanted])

    def _storage(self, source: _Source) -> Storage:
        return self._layout.storage(source.field)

    def _tensor(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)

    def _index(self, sources: list[_Source]) -> Tensor:
        return self._tensor([self._layout.places[x.player, x.field.name][1] for x in sources])

    def _scales(self, sources: list[_Source]) -> Tensor:
        scales = [x.field.scale if x.field.kind is Kind.CONTINUOUS else 1.0 for x in sources]
        return torch.tensor(scales, dtype=torch.float32, device=self._device)

    def _code_tables(self, sources: list[_Source]) -> tuple[Tensor, Tensor]:
        """All tables end to end, and where each source's table begins."""
        first, begins = 0, {}
        for code in Code:
            begins[code] = first
            first += len(code_table(code))
        tables = torch.from_numpy(np.concatenate([code_table(code) for code in Code])).to(self._device)
        return tables, self._tensor([begins[x.field.code] for x in sources if x.field.code])

    def read_numbers(self, columns: dict[Storage, Tensor]) -> Tensor:
        """(B, T, float) scaled numbers, flags and controls, in reading order (see `number_order`)."""
        parts = []
        for storage, (index, scales) in self._plain.items():
            if len(index):
                parts.append(_widen(columns[storage].index_select(-1, index), storage).to(torch.float32) * scales)
        if len(self._coded):
            codes = columns[Storage.UINT8].index_select(-1, self._coded).to(torch.int64)
            parts.append(self._tables[codes + self._table_of])
        flags = (columns[Storage.BIT].index_select(-1, self._bytes) >> self._shifts) & 1
        return torch.cat([*parts, flags.to(torch.float32)], dim=-1)

    def read_classes(self, columns: dict[Storage, Tensor]) -> Tensor:
        """(B, T, class) indices of both players, clipped into their vocabularies; `state_age` is truncated."""
        parts = [_widen(columns[s].index_select(-1, i), s).to(torch.int64) for s, i in self._class_columns if len(i)]
        values = torch.cat(parts, dim=-1).index_select(-1, self._class_order)
        values = torch.where(values == self._empty, 0, values + self._shift)
        return torch.minimum(values.clamp(min=0), self._highest)

    def read_positions(self, columns: dict[Storage, Tensor]) -> tuple[Tensor, Tensor]:
        """x and y (B, T, P) of the players, Melee units."""
        floats = columns[Storage.FLOAT32]
        x, y = ([self._layout.places[p, name][1] for p in range(PLAYERS)] for name in ("x", "y"))
        return floats[..., x], floats[..., y]


def _widen(values: Tensor, storage: Storage) -> Tensor:
    """int16 that carries uint16 bits becomes int32; other types stay."""
    return values.to(torch.int32) & 0xFFFF if storage is Storage.UINT16 else values


def _number_sources(features: FeatureLayout) -> tuple[list[_Source], list[int]]:
    """Every number of a frame with its place, and the places of the nearest items' numbers."""
    sources: list[_Source] = []
    items: list[int] = []
    place = 0
    for player in range(PLAYERS):
        for field in features.continuous:
            sources.append(_Source(player, field, 0, place))
            place += 1
        extra = features.continuous_width - len(features.continuous)
        items += range(place, place + extra)
        place += extra
        for field in (*features.flags, *features.controls):
            sources += [_Source(player, field, bit, place + bit) for bit in range(field.bits)]
            place += field.bits
    return sources, items


class _TargetPlaces:
    """Where targets and controls lie among a frame's numbers and classes."""

    def __init__(self, features: FeatureLayout, device: torch.device) -> None:
        self._device = device
        sources, _ = _number_sources(features)
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
