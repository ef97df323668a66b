"""Memory for the frames of one layout's blocks: of all of them, or of some at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from worldmodel.blocks.block import Block
from worldmodel.blocks.index import BlockEntry
from worldmodel.blocks.layout import Layout, layout_named
from worldmodel.features.rows import ITEMS, ItemMatrix, RowFormat, RowMatrix
from worldmodel.features.shelf import Shelf
from worldmodel.features.slots import BlockSlots
from worldmodel.features.spots import Spots, copying, send
from worldmodel.schema import SPARSE, Storage

ITEM_BYTES = 1 + sum(
    np.dtype(kind).itemsize for group in SPARSE if group.name == ITEMS for _, kind in group.fields if kind != "bool"
)
"""Bytes that an item takes in a block at least: its slot and its numbers."""


MOST_ITEMS = next(len(group.paths) for group in SPARSE if group.name == ITEMS)
"""Items of a frame at most."""


@dataclass(frozen=True)
class Items:
    """Active items of some frames, padded."""

    x: Float[Tensor, "batch time item"]
    y: Float[Tensor, "batch time item"]
    active: Bool[Tensor, "batch time item"]


@dataclass(frozen=True)
class Frames:
    """Rows of one layout, gathered: T consecutive frames for each of B samples."""

    layout: Layout
    columns: dict[Storage, Tensor]
    """Storage to (B, T, width); UINT16 as int16 with the same bits, flags packed in bytes."""
    items: Items | None


@dataclass(frozen=True)
class Pieces:
    """Where samples begin, each (B,)."""

    blocks: np.ndarray
    """Block, by its number in the pool."""
    rows: np.ndarray
    """First row, within the block."""
    last: np.ndarray
    """Last row of the sample's game, within the block."""

    def choose(self, places: np.ndarray) -> Pieces:
        """Those of some places of the batch."""
        return Pieces(self.blocks[places], self.rows[places], self.last[places])


class BlockPool:
    """Frames of some blocks of one layout; nothing is loaded before `fill` or `stream`."""

    def __init__(self, entries: Sequence[BlockEntry], shelf: Shelf, device: torch.device, with_items: bool) -> None:
        """`entries`: blocks of one layout, whose places in this sequence are their numbers."""
        self.entries, self._shelf, self._device = list(entries), shelf, device
        self.format = RowFormat(layout_named(entries[0].layout), with_items)
        self._frames = np.array([entry.frames for entry in entries], dtype=np.int64)
        self._item_room = np.array([_count_item_room(entry, self.format) for entry in entries], dtype=np.int64)
        self._first_row = np.zeros(len(entries), dtype=np.int64)
        self._first_item = np.zeros(len(entries), dtype=np.int64)
        self._most_items = 0
        self._slots: BlockSlots | None = None

    @property
    def needed_bytes(self) -> int:
        """Bytes of all rows and items (their upper bound)."""
        return int(self._frames.sum()) * self.format.width + int(self._item_room.sum()) * ItemMatrix.ITEM_BYTES

    @property
    def slot_bytes(self) -> int:
        """Bytes of the largest block's rows and items."""
        return int(self._frames.max()) * self.format.width + int(self._item_room.max()) * ItemMatrix.ITEM_BYTES

    @property
    def blocks_at_hand(self) -> int:
        """Blocks that there is memory for."""
        return self._slots.count if self._slots else len(self.entries)

    @property
    def rows_bytes(self) -> int:
        """Bytes of memory for rows, once it is opened."""
        return self._rows.bytes

    def fill(self) -> None:
        """Load every block. UserError where one is damaged."""
        self._first_row = np.cumsum(self._frames) - self._frames
        self._first_item = np.cumsum(self._item_room) - self._item_room
        self._allocate(int(self._frames.sum()), int(self._item_room.sum()))
        for number in range(len(self.entries)):
            self._load(number)

    def stream(self, slots: int) -> None:
        """Load blocks when they are required or expected, so many at a time.

        Blocks are hashed in a thread once the first ones are loaded, because hashing all delays the first batch.
        """
        rows, items = int(self._frames.max()), int(self._item_room.max())
        self._allocate(slots * rows, slots * items)
        if self.format.with_items and self._device.type == "cuda":
            self._most_items = MOST_ITEMS  # a step's shapes must not depend on the blocks at hand

        def load(number: int, slot: int) -> None:
            self._first_row[number], self._first_item[number] = slot * rows, slot * items
            self._load(number)

        self._slots = BlockSlots(slots, load, self._shelf.loaders, lambda: self._shelf.verify(self.entries))

    def expect(self, blocks: Sequence[int]) -> None:
        """Load these blocks soon, in this order, where there is room."""
        if self._slots:
            self._slots.expect(blocks)

    def hold(self, blocks: np.ndarray) -> bool:
        """Whether blocks have room together; they are at hand then, until `release`."""
        if self._slots is None:
            return True
        needed = sorted(set(blocks.tolist()))
        if len(needed) > self._slots.count:
            return False
        self._slots.hold(needed)
        return True

    def release(self) -> None:
        """The blocks that were held first may go."""
        if self._slots:
            self._slots.release()

    def gather(self, pieces: Pieces, frames: int) -> Iterator[tuple[np.ndarray, Frames]]:
        """(places, frames) of so many rows from each piece's first; in one part where all blocks have room together."""
        for places in self._require(pieces.blocks):
            some = pieces if len(places) == len(pieces.blocks) else pieces.choose(places)
            yield places, self.take(Spots(*send(self.locate(some), self._device).unbind()), frames)

    def locate(self, pieces: Pieces) -> np.ndarray:
        """(3, B) `Spots` of pieces whose blocks are at hand."""
        base = self._first_row[pieces.blocks]
        return np.stack([base + pieces.rows, base + pieces.last, self._first_item[pieces.blocks]])

    def take(self, spots: Spots, frames: int) -> Frames:
        """So many rows from each spot's first."""
        rows = self._rows.take(spots.first, spots.last, frames)
        items = self._take_items(rows, spots.items) if self.format.with_items else None
        return Frames(self.format.layout, self.format.read(rows), items)

    def _require(self, blocks: np.ndarray) -> Iterator[np.ndarray]:
        """Places of the batch whose blocks are at hand now, part by part."""
        if self._slots is None:
            yield np.arange(len(blocks))
            return
        needed = sorted(set(blocks.tolist()))
        for first in range(0, len(needed), self._slots.count):
            some = needed[first : first + self._slots.count]
            self._slots.require(some)
            yield np.arange(len(blocks)) if some == needed else np.flatnonzero(np.isin(blocks, some))

    def _take_items(self, rows: UInt8[Tensor, "batch time byte"], base: Tensor) -> Items | None:
        if not self._most_items:
            return None
        first, count = self.format.read_items(rows)
        number = torch.arange(self._most_items, device=self._device)
        there = number < count[..., None]
        start = first + base[:, None]
        x, y, exists = self._items.take(torch.where(there, start[..., None] + number, 0))
        return Items(x, y, exists & there)

    def _allocate(self, rows: int, items: int) -> None:
        self._rows = RowMatrix(self.format, rows, self._device)
        self._items = ItemMatrix(items, self._device)

    def _load(self, number: int) -> None:
        block: Block = self._shelf.open(self.entries[number])
        column = block.sparse.get(ITEMS)
        with copying(self._device):
            self._rows.put(int(self._first_row[number]), block)
            if self.format.with_items and column is not None:
                self._items.put(int(self._first_item[number]), column)
        if self.format.with_items and column is not None:
            self._most_items = max(self._most_items, int(np.diff(column.offsets).max()))


def _count_item_room(entry: BlockEntry, form: RowFormat) -> int:
    """Items that a block can have at most, by its size."""
    if not form.with_items:
        return 0
    return max(0, entry.bytes - entry.frames * form.layout.frame_bytes) // ITEM_BYTES
