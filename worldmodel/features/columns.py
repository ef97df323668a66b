"""Which stored columns become which numbers and classes of a frame: index tensors, a handful of gathers for all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node, tree_flatten, tree_unflatten

from worldmodel.blocks.layout import Layout
from worldmodel.encoding import FeatureLayout
from worldmodel.schema import PLAYERS, Code, Field, Kind, Storage, code_table


@dataclass(frozen=True)
class Source:
    """Where one output number comes from, and its place in the users' order."""

    player: int
    field: Field
    bit: int
    place: int


def register_tables(kind: type) -> None:
    """Let a chain (`machine/fused.py`) take the tensors of such an object as inputs, and the rest as constants."""

    def flatten(made: object) -> tuple[list[Tensor], Any]:
        leaves, spec = tree_flatten(vars(made))
        rest = [Tensor if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)], (spec, rest)

    def build(tensors: Iterable[Any], context: Any) -> Any:
        made: Any = object.__new__(kind)
        (spec, rest), left = context, iter(tensors)
        vars(made).update(tree_unflatten([next(left) if leaf is Tensor else leaf for leaf in rest], spec))
        return made

    register_pytree_node(kind, flatten, build)


class ClassCode:
    """From stored values of some categories to class indices, and back."""

    def __init__(self, fields: Sequence[Field], device: torch.device) -> None:
        """`fields`: what the last axis holds."""
        empty = [-1 if field.empty is None else field.empty for field in fields]
        self._empty = torch.tensor(empty, device=device)
        self._shift = torch.tensor([0 if field.empty is None else 1 for field in fields], device=device)
        self._highest = torch.tensor([field.vocabulary - 1 for field in fields], device=device)

    def encode(self, stored: Tensor) -> Tensor:
        """Class indices (..., field), clipped into the vocabularies."""
        values = torch.where(stored == self._empty, 0, stored + self._shift)
        return torch.minimum(values.clamp(min=0), self._highest)

    def decode(self, classes: Tensor) -> Tensor:
        """The stored values (..., field) that class indices mean."""
        values = classes - self._shift
        return torch.where(values < 0, self._empty, values)


class ColumnPlan:
    """Which stored columns become which numbers and classes, as index tensors: a handful of gathers for all fields."""

    def __init__(
        self, features: FeatureLayout, layout: Layout, device: torch.device, *, is_scaled: bool = True
    ) -> None:
        """`is_scaled`: whether numbers are scaled as the model sees them, or the game's own."""
        self._device, self._is_scaled = device, is_scaled
        self._layout = layout
        sources, items = number_sources(features)
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
        self._positions = [[layout.places[p, name][1] for p in range(PLAYERS)] for name in ("x", "y")]
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
        self._code = ClassCode([field for _, field in wanted], self._device)

    def _storage(self, source: Source) -> Storage:
        return self._layout.storage(source.field)

    def _tensor(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)

    def _index(self, sources: list[Source]) -> Tensor:
        return self._tensor([self._layout.places[x.player, x.field.name][1] for x in sources])

    def _scales(self, sources: list[Source]) -> Tensor:
        has_scale = [self._is_scaled and x.field.kind is Kind.CONTINUOUS for x in sources]
        scales = [x.field.scale if scaled else 1.0 for x, scaled in zip(sources, has_scale, strict=True)]
        return torch.tensor(scales, dtype=torch.float32, device=self._device)

    def _code_tables(self, sources: list[Source]) -> tuple[Tensor, Tensor]:
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
                parts.append(widen(columns[storage].index_select(-1, index), storage).to(torch.float32) * scales)
        if len(self._coded):
            codes = columns[Storage.UINT8].index_select(-1, self._coded).to(torch.int64)
            parts.append(self._tables[codes + self._table_of])
        flags = (columns[Storage.BIT].index_select(-1, self._bytes) >> self._shifts) & 1
        return torch.cat([*parts, flags.to(torch.float32)], dim=-1)

    def read_classes(self, columns: dict[Storage, Tensor]) -> Tensor:
        """(B, T, class) indices of both players, clipped into their vocabularies; `state_age` is truncated."""
        return self._code.encode(self.read_stored(columns))

    def read_stored(self, columns: dict[Storage, Tensor]) -> Tensor:
        """(B, T, class) the stored values of both players' categories; `state_age` is truncated."""
        parts = [widen(columns[s].index_select(-1, i), s).to(torch.int64) for s, i in self._class_columns if len(i)]
        return torch.cat(parts, dim=-1).index_select(-1, self._class_order)

    def read_positions(self, columns: dict[Storage, Tensor]) -> tuple[Tensor, Tensor]:
        """x and y (B, T, P) of the players, Melee units."""
        x, y = (torch.stack([columns[Storage.FLOAT32][..., n] for n in places], -1) for places in self._positions)
        return x, y


register_tables(ClassCode)
register_tables(ColumnPlan)


def widen(values: Tensor, storage: Storage) -> Tensor:
    """int16 that carries uint16 bits becomes int32; other types stay."""
    return values.to(torch.int32) & 0xFFFF if storage is Storage.UINT16 else values


def number_sources(features: FeatureLayout) -> tuple[list[Source], list[int]]:
    """Every number of a frame with its place, and the places of the nearest items' numbers."""
    sources: list[Source] = []
    items: list[int] = []
    place = 0
    for player in range(PLAYERS):
        for field in features.continuous:
            sources.append(Source(player, field, 0, place))
            place += 1
        extra = features.continuous_width - len(features.continuous)
        items += range(place, place + extra)
        place += extra
        for field in (*features.flags, *features.controls):
            sources += [Source(player, field, bit, place + bit) for bit in range(field.bits)]
            place += field.bits
    return sources, items
