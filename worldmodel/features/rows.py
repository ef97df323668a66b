"""Frames as rows of bytes: all storages of a frame side by side, so that one gather brings everything of it.

A sample is consecutive rows of one game, which lie in one piece: a CPU copies B samples as B pieces of memory, and not
as B x T rows. A GPU computes the rows' numbers itself, the same way for every batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from worldmodel.blocks.block import Block, SparseColumn
from worldmodel.blocks.layout import Layout
from worldmodel.machine.fused import fused
from worldmodel.schema import Storage

WORD = 4
"""Bytes that are copied at a time; a row is a whole number of them, and so are its float32 columns aligned."""
WRITE_ROWS = 2048
"""Rows written at a time, so that they are still in the processor's cache when the next column comes."""
MOST_CUT = 16
"""Samples that a CPU mends one by one because their game ends within them; more are gathered row by row."""
ITEMS = "items"
DTYPES = {Storage.FLOAT32: torch.float32, Storage.UINT16: torch.int16, Storage.UINT8: torch.uint8,
          Storage.BIT: torch.uint8}  # fmt: skip
"""Storage to the type of its tensors; UINT16 as int16 with the same bits, flags packed in bytes."""


@dataclass(frozen=True)
class RowFormat:
    """Where a layout's columns lie in a row of bytes."""

    layout: Layout
    with_items: bool = False
    """Whether a row also says where its items lie: two int32, the first (within its block) and how many."""

    @cached_property
    def places(self) -> Mapping[Storage | str, slice]:
        """Storage (or "items") to its bytes; the widest types first, so that each is aligned."""
        widths: dict[Storage | str, int] = {
            storage: self.layout.width(storage) * DTYPES[storage].itemsize for storage in Storage
        }
        if self.with_items:
            widths = {ITEMS: 2 * WORD, **widths}
        ends = np.cumsum(list(widths.values())).tolist()
        return {name: slice(end - width, end) for (name, width), end in zip(widths.items(), ends, strict=True)}

    @cached_property
    def width(self) -> int:
        """Bytes of a row."""
        end = max(int(place.stop) for place in self.places.values())
        return -(-end // WORD) * WORD

    @cached_property
    def _widths(self) -> list[int]:
        widths = [place.stop - place.start for place in self.places.values()]
        return [*widths, self.width - sum(widths)]

    def write(self, rows: np.ndarray, block: Block) -> None:
        """Fill `rows` (T, width; uint8) with a block's frames. What lies between columns stays as it is."""
        sources: dict[Storage | str, np.ndarray] = {s: _as_bytes(block.matrices[s]) for s in Storage}
        if self.with_items:
            sources[ITEMS] = _as_bytes(_point_at_items(block.sparse.get(ITEMS), len(rows)))
        for first in range(0, len(rows), WRITE_ROWS):
            some = slice(first, first + WRITE_ROWS)
            for name, place in self.places.items():
                rows[some, place] = sources[name][some]

    def read(self, rows: UInt8[Tensor, "batch time byte"]) -> dict[Storage, Tensor]:
        """Storage to (B, T, column), typed views of the rows."""
        parts = dict(zip(self.places, torch.split_with_sizes(rows, self._widths, -1), strict=False))
        typed = ((storage, kind, parts[storage]) for storage, kind in DTYPES.items())
        return {storage: part if kind is torch.uint8 else part.view(kind) for storage, kind, part in typed}

    def read_items(self, rows: UInt8[Tensor, "batch time byte"]) -> tuple[Tensor, Tensor]:
        """(B, T) first item (within its block) and number of items of each frame."""
        found = rows[..., self.places[ITEMS]].view(torch.int32)
        return found[..., 0].long(), found[..., 1].long()


def _as_bytes(matrix: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(matrix).view(np.uint8)


def _point_at_items(column: SparseColumn | None, frames: int) -> np.ndarray:
    found = np.zeros((frames, 2), dtype=np.int32)
    if column is not None:
        found[:, 0] = column.offsets[:-1]
        found[:, 1] = np.diff(column.offsets)
    return found


class RowMatrix:
    """Memory for so many rows of one format, on a device."""

    def __init__(self, form: RowFormat, rows: int, device: torch.device) -> None:
        self.format, self.count = form, rows
        self._words = torch.empty(rows, form.width // WORD, dtype=torch.int32, device=device)
        self._is_here = device.type == "cpu"
        self._bytes = self._words.numpy().view(np.uint8) if self._is_here else np.empty((0, form.width), np.uint8)
        self._seen: dict[int, np.ndarray] = {}

    @property
    def bytes(self) -> int:
        """Bytes of all rows, of which those never written may not be taken yet."""
        return self._words.numel() * WORD

    def put(self, first: int, block: Block) -> None:
        """Write a block's frames, its first one to row `first`; a GPU does it when it comes to it."""
        count = len(block.matrices[Storage.FLOAT32])
        target = self._words[first : first + count]
        apart = target.is_cuda
        here = torch.empty(target.shape, dtype=target.dtype, pin_memory=True) if apart else target
        self.format.write(here.numpy().view(np.uint8), block)
        if apart:
            target.copy_(here, non_blocking=True)

    def take(self, first: Tensor, last: Tensor, frames: int) -> UInt8[Tensor, "batch time byte"]:
        """Rows `first .. first + frames` of each sample; beyond its `last` row that one is repeated."""
        if not self._is_here:
            return self._select_rows(spread(first, last, frames))
        starts, ends = first.numpy(), last.numpy()
        left = ends - starts + 1
        cut = np.flatnonzero(left < frames)
        if len(cut) > MOST_CUT or starts.max() > self.count - frames:
            return self._select_rows(spread(first, last, frames))
        found = self._pieces(frames)[starts]
        for place in cut.tolist():
            found[place, left[place] :] = found[place, left[place] - 1]
        return torch.from_numpy(found)

    def _pieces(self, frames: int) -> np.ndarray:
        """The matrix seen as overlapping pieces (first row, frame, byte), of which none is made."""
        if frames not in self._seen:
            rows, width = self._bytes.shape
            shape, strides = (rows - frames + 1, frames, width), (width, width, 1)
            self._seen = {frames: np.lib.stride_tricks.as_strided(self._bytes, shape, strides, writeable=False)}
        return self._seen[frames]

    def _select_rows(self, rows: Int[Tensor, "batch time"]) -> UInt8[Tensor, "batch time byte"]:
        found = self._words.index_select(0, rows.flatten())
        return found.view(torch.uint8).view(*rows.shape, -1)


@fused
def spread(first: Tensor, last: Tensor, frames: int) -> Int[Tensor, "batch time"]:
    """Row numbers of `frames` frames of each sample; on a device the same operations for all samples."""
    steps = torch.arange(frames, device=first.device)
    return torch.minimum(first[:, None] + steps, last[:, None])


class ItemMatrix:
    """Memory for so many items on a device: x, y and whether each exists."""

    KINDS: ClassVar = {"x": torch.float32, "y": torch.float32, "exists": torch.bool}
    ITEM_BYTES = sum(kind.itemsize for kind in KINDS.values())
    """Bytes of one item."""

    def __init__(self, items: int, device: torch.device) -> None:
        self._values = {name: torch.zeros(items, dtype=kind, device=device) for name, kind in self.KINDS.items()}

    def put(self, first: int, column: SparseColumn) -> None:
        """Write a block's items, its first one to place `first`; a GPU does it when it comes to it."""
        for name, target in self._values.items():
            source = _as_tensor(column.values[name])
            source = source.pin_memory() if target.is_cuda else source
            target[first : first + len(source)].copy_(source, non_blocking=True)

    def take(self, places: Int[Tensor, "batch time item"]) -> tuple[Tensor, Tensor, Tensor]:
        """x, y and existence at some places."""
        return self._values["x"][places], self._values["y"][places], self._values["exists"][places]


def _as_tensor(values: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mapped arrays are read-only, and nothing here writes to them
        return torch.from_numpy(np.ascontiguousarray(values))
