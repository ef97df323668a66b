"""Frames at hand: blocks copied to a device once where they fit, read from mapped files where they do not.

Either way a batch is a few gathers of whole rows; no sample is touched in Python.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from worldmodel.blocks.block import Block, SparseColumn
from worldmodel.blocks.index import BlockEntry, GameEntry, Index, hash_file
from worldmodel.blocks.layout import Layout, layout_named
from worldmodel.errors import UserError
from worldmodel.features.plan import Samples
from worldmodel.schema import PLAYER_FIELDS, PLAYERS, Storage


@dataclass(frozen=True)
class Items:
    """Active items of some frames, padded: (batch, time, item)."""

    x: Tensor
    y: Tensor
    active: Tensor


@dataclass(frozen=True)
class Frames:
    """Rows of one layout, gathered: T consecutive frames for each of B samples."""

    layout: Layout
    columns: dict[Storage, Tensor]
    """Storage to (B, T, width); UINT16 as int16 with the same bits, flags packed in bytes."""
    items: Items | None


@dataclass(frozen=True, kw_only=True)
class _Segment:
    """The rows of one block, or of all resident blocks of a layout."""

    layout: Layout
    columns: dict[Storage, Tensor]
    offsets: Tensor | None
    """(rows + 1,) first item of each row; None where there are no items."""
    items: tuple[Tensor, Tensor, Tensor] | None
    """x, y and existence of each item."""


class FrameStore:
    """The frames of some games, ready to be gathered on a device."""

    def __init__(self, folder: Path, index: Index, games: Sequence[GameEntry], options: StoreOptions) -> None:
        self.device = torch.device(options.device)
        self._with_items = options.with_items
        self._first_row = np.zeros(len(games), dtype=np.int64)
        self._segment_of = np.zeros(len(games), dtype=np.int64)
        self._last = np.array([game.frames for game in games], dtype=np.int64) - 1
        self.stages = torch.tensor([game.stage for game in games], device=self.device)
        self._missing = torch.from_numpy(_missing_table(games)).to(self.device)
        blocks = _needed(index, games, options.partitions)
        self.bytes = sum(block.bytes for block in blocks)
        self.is_resident = self.bytes <= options.resident_bytes
        opened = [_open(folder, block) for block in blocks]
        self._segments = self._make_resident(opened, games) if self.is_resident else self._make_mapped(opened, games)
        self.most_items = max((_most_items(s) for s in self._segments), default=0) if self._with_items else 0

    def gather(self, samples: Samples, frames: int) -> list[tuple[np.ndarray, Frames]]:
        """Rows `start .. start + frames` of each sample; beyond a game's end its last row is repeated.

        Returns (places in the batch, frames) per segment: one entry where all games share a layout and are resident.
        """
        within = samples.starts[:, None] + np.arange(frames)
        rows = self._first_row[samples.games, None] + np.minimum(within, self._last[samples.games, None])
        segments = self._segment_of[samples.games]
        found = []
        for number in np.unique(segments):
            places = np.flatnonzero(segments == number)
            found.append((places, self._take(self._segments[number], rows[places])))
        return found

    def present(self, samples: Samples) -> Tensor:
        """(B, P, field): 1.0 where the game records a field of `PLAYER_FIELDS`, 0.0 where its replay lacks it."""
        return self._missing[torch.from_numpy(samples.games).to(self.device)]

    def game_lengths(self, samples: Samples) -> np.ndarray:
        """(B,) frames of each sample's game."""
        lengths: np.ndarray = self._last[samples.games] + 1
        return lengths

    @property
    def game_count(self) -> int:
        """Games in the store."""
        return len(self._last)

    def _take(self, segment: _Segment, rows: np.ndarray) -> Frames:
        place = torch.from_numpy(rows)
        if self.is_resident:
            place = place.to(self.device, non_blocking=True)
        columns = {}
        for storage, matrix in segment.columns.items():
            taken = matrix.index_select(0, place.reshape(-1)).reshape(*place.shape, -1)
            columns[storage] = taken.to(self.device, non_blocking=True)
        items = self._take_items(segment, place) if self._with_items else None
        return Frames(segment.layout, columns, items)

    def _take_items(self, segment: _Segment, rows: Int[Tensor, "batch time"]) -> Items | None:
        if segment.offsets is None or segment.items is None:
            return None
        first = segment.offsets[rows].long()
        count = segment.offsets[rows + 1].long() - first
        number = torch.arange(self.most_items, device=rows.device)
        there = number < count[..., None]
        place = torch.where(there, first[..., None] + number, 0)
        x, y, exists = (values[place].to(self.device) for values in segment.items)
        return Items(x, y, exists & there.to(self.device))

    def _make_resident(self, blocks: list[tuple[BlockEntry, Block]], games: Sequence[GameEntry]) -> list[_Segment]:
        segments: list[_Segment] = []
        for name in sorted({entry.layout for entry, _ in blocks}):
            chosen = [(entry, block) for entry, block in blocks if entry.layout == name]
            first = dict(
                zip([e.name for e, _ in chosen], np.cumsum([0, *(e.frames for e, _ in chosen)]).tolist(), strict=False)
            )
            self._place(games, first, len(segments))
            segments.append(self._join(layout_named(name), [block for _, block in chosen]))
        return segments

    def _make_mapped(self, blocks: list[tuple[BlockEntry, Block]], games: Sequence[GameEntry]) -> list[_Segment]:
        for number, (entry, _) in enumerate(blocks):
            self._place(games, {entry.name: 0}, number)
        return [_map(block) for _, block in blocks]

    def _place(self, games: Sequence[GameEntry], first: dict[str, int], segment: int) -> None:
        for number, game in enumerate(games):
            if game.block in first:
                self._first_row[number] = first[game.block] + game.row
                self._segment_of[number] = segment

    def _join(self, layout: Layout, blocks: list[Block]) -> _Segment:
        columns = {}
        for storage in Storage:
            joined = np.concatenate([block.matrices[storage] for block in blocks])
            columns[storage] = _tensor(joined, storage).to(self.device)
        sparse = [block.sparse.get("items") for block in blocks]
        if not self._with_items or not any(sparse):
            return _Segment(layout=layout, columns=columns, offsets=None, items=None)
        offsets, items = _join_items(sparse, [len(block.matrices[Storage.FLOAT32]) for block in blocks])
        x, y, exists = (values.to(self.device) for values in items)
        return _Segment(layout=layout, columns=columns, offsets=offsets.to(self.device), items=(x, y, exists))


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """Where frames are kept."""

    device: str | torch.device = "cpu"
    resident_bytes: int = 1 << 62
    """Blocks of up to so many bytes are copied to the device; more stay in mapped files."""
    with_items: bool = False
    """Whether items are gathered too (flag `projectiles`)."""
    partitions: frozenset[int] | None = None
    """Canonical partitions whose games are kept; None: all. A worker keeps its own and never asks for others."""


def _needed(index: Index, games: Sequence[GameEntry], partitions: frozenset[int] | None) -> list[BlockEntry]:
    names = {game.block for game in games}
    own = [block for block in index.blocks if partitions is None or block.partition in partitions]
    return [block for block in own if block.name in names]


def _open(folder: Path, entry: BlockEntry) -> tuple[BlockEntry, Block]:
    path = folder / entry.name
    if not path.exists():
        raise UserError(f"block {path} is gone although {folder / 'index.json'} names it: encode the games again")
    digest = hash_file(path)
    if digest != entry.sha256:
        raise UserError(f"block {path} is damaged: sha256 is {digest}, the index says {entry.sha256}; encode again")
    return entry, Block.open(path)


def _tensor(matrix: np.ndarray, storage: Storage) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mapped arrays are read-only, and nothing here writes to them
        return torch.from_numpy(matrix.view(np.int16) if storage is Storage.UINT16 else matrix)


def _map(block: Block) -> _Segment:
    columns = {storage: _tensor(block.matrices[storage], storage) for storage in Storage}
    items = block.sparse.get("items")
    if items is None:
        return _Segment(layout=block.layout, columns=columns, offsets=None, items=None)
    offsets, values = _join_items([items], [len(block.matrices[Storage.FLOAT32])])
    return _Segment(layout=block.layout, columns=columns, offsets=offsets, items=values)


def _join_items(
    columns: Sequence[SparseColumn | None], rows: list[int]
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    counts = [np.zeros(n, np.int32) if c is None else np.diff(c.offsets) for c, n in zip(columns, rows, strict=True)]
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    parts = [c.values for c in columns if c is not None]
    x, y, exists = (torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in ("x", "y", "exists"))
    return torch.from_numpy(offsets), (x, y, exists.bool())


def _most_items(segment: _Segment) -> int:
    return 0 if segment.offsets is None else int(segment.offsets.diff().max())


def _missing_table(games: Sequence[GameEntry]) -> np.ndarray:
    """(G, P, field) 1.0 where recorded, in the order of `PLAYER_FIELDS`."""
    table = np.ones((len(games), PLAYERS, len(PLAYER_FIELDS)), dtype=np.float32)
    places = {f"p{p}.{f.name}": (p, n) for p in range(PLAYERS) for n, f in enumerate(PLAYER_FIELDS)}
    for number, game in enumerate(games):
        for name in game.missing:
            table[(number, *places[name])] = 0.0
    return table
