"""Frames at hand on a device: all of them where they fit, else those of a few blocks, which come and go.

Either way a batch is one gather of rows; streaming differs only in which rows of a matrix a block has. No sample is
touched in Python.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.blocks.index import BlockEntry, GameEntry, Index
from worldmodel.features.plan import Samples
from worldmodel.features.pool import BlockPool, Frames, Items, Pieces
from worldmodel.features.shelf import LocalShelf, Shelf
from worldmodel.features.spots import Spots, send
from worldmodel.schema import PLAYER_FIELDS, PLAYERS

__all__ = ["FrameStore", "Frames", "Items", "StoreOptions"]
Parts = Sequence[tuple[np.ndarray, Frames]]
"""Frames of a batch, and of which of its samples each of them are."""
LEAST_BLOCKS = 16
"""Blocks that a store which streams has room for at least, unless it is told otherwise."""


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """Where frames are kept."""

    device: str | torch.device = "cpu"
    resident_bytes: int = 1 << 62
    """Room on the device; frames that need more stream through it."""
    with_items: bool = False
    """Whether items are gathered too (flag `projectiles`)."""
    partitions: frozenset[int] | None = None
    """Canonical partitions whose games are kept; None: all. A worker keeps its own and never asks for others."""
    least_blocks: int = LEAST_BLOCKS
    """Blocks that must be at hand together, whatever the room."""


class FrameStore:
    """The frames of some games, ready to be gathered on a device."""

    def __init__(self, blocks: Path | Shelf, index: Index, games: Sequence[GameEntry], options: StoreOptions) -> None:
        """`blocks`: where the index's blocks are. UserError naming the first that is gone or damaged."""
        self.device = torch.device(options.device)
        self.shelf: Shelf = LocalShelf(blocks) if isinstance(blocks, Path) else blocks
        self.room = options.resident_bytes
        self.stages = torch.tensor([game.stage for game in games], device=self.device)
        recorded = _missing_table(games)
        self.is_complete = bool(recorded.all())
        """Whether all games record all fields."""
        self.recorded = torch.from_numpy(recorded).to(self.device)
        entries = _needed(index, games, options.partitions)
        self.shelf.check(entries)
        self._pools = self._make_pools(entries, options.with_items)
        self._places = {e.name: (n, k) for n, pool in enumerate(self._pools) for k, e in enumerate(pool.entries)}
        nowhere = (-1, -1)
        self._pool_of, self._block_of = np.array([self._places.get(game.block, nowhere) for game in games]).T
        self._row = np.array([game.row for game in games], dtype=np.int64)
        self._last = np.array([game.frames for game in games], dtype=np.int64) - 1
        self._turn = threading.Lock()
        self._expected: Sequence[str] = ()
        self.bytes = sum(pool.needed_bytes for pool in self._pools)
        self.is_resident = self.bytes <= options.resident_bytes
        self._open_pools(options)

    def gather(self, samples: Samples, frames: int) -> list[tuple[np.ndarray, Frames]]:
        """Rows `start .. start + frames` of each sample; beyond a game's end its last row is repeated.

        Returns (places in the batch, frames) per part: one where all games share a layout and all blocks have room.
        """
        pieces = self._cut(samples)
        if len(self._pools) == 1:
            return self._gather(self._pools[0], pieces, frames)
        found = []
        for number in np.unique(self._pool_of[samples.games]):
            mine = np.flatnonzero(self._pool_of[samples.games] == number)
            parts = self._gather(self._pools[number], pieces.choose(mine), frames)
            found += [(mine[places], part) for places, part in parts]
        return found

    def take(self, spots: Spots, frames: int) -> Frames:
        """`gather` on the device alone, of samples that lie at some spots of the only pool."""
        (pool,) = self._pools
        return pool.take(spots, frames)

    def hold(self, parts: Sequence[Samples]) -> list[np.ndarray] | None:
        """(3, B) `Spots` of each part of a batch, all of one layout; their blocks stay at hand until `release`.

        None: they have no room together.
        """
        (pool,) = self._pools
        pieces = [self._cut(samples) for samples in parts]
        if not pool.hold(np.concatenate([some.blocks for some in pieces])):
            return None
        return [pool.locate(some) for some in pieces]

    def release(self) -> None:
        """What was held first is no longer needed: all that reads it has been launched."""
        for pool in self._pools:
            pool.release()

    def describe_samples(self, samples: Samples) -> np.ndarray:
        """(3, B) `Traits` of some samples."""
        swapped = np.zeros(len(samples), dtype=np.int64) if samples.swapped is None else samples.swapped
        return np.stack([samples.games, self.game_lengths(samples) - samples.starts, swapped])

    def _cut(self, samples: Samples) -> Pieces:
        row = self._row[samples.games]
        return Pieces(self._block_of[samples.games], row + samples.starts, row + self._last[samples.games])

    def expect(self, blocks: Sequence[str]) -> None:
        """Say which blocks come next, in order: where frames stream, they are loaded ahead."""
        if not self.is_resident and blocks is not self._expected:
            self._expected = blocks
            places = [self._places[name] for name in blocks if name in self._places]
            for number, pool in enumerate(self._pools):
                pool.expect([block for pool_number, block in places if pool_number == number])

    def present(self, samples: Samples) -> Float[Tensor, "batch player field"]:
        """1.0 where the game records a field of `PLAYER_FIELDS`, 0.0 where its replay lacks it."""
        return self.recorded[send(samples.games, self.device)]

    def game_lengths(self, samples: Samples) -> np.ndarray:
        """(B,) frames of each sample's game."""
        lengths: np.ndarray = self._last[samples.games] + 1
        return lengths

    @property
    def is_of_one_layout(self) -> bool:
        """Whether all frames lie in one matrix."""
        return len(self._pools) == 1

    @property
    def game_count(self) -> int:
        """Games in the store."""
        return len(self._last)

    def describe(self) -> str:
        """Where the frames are, and why."""
        count = len(self._places)
        if self.is_resident:
            return f"frames on the {self.device.type}: {_mib(self.bytes)} of {count} blocks, room {_mib(self.room)}"
        at_hand = sum(pool.blocks_at_hand for pool in self._pools)
        held = sum(pool.blocks_at_hand * pool.slot_bytes for pool in self._pools)
        return (
            f"frames stream from {self.shelf.describe()}: they need {_mib(self.bytes)}, more than the room of "
            f"{_mib(self.room)}; {at_hand} of {count} blocks at a time in {_mib(held)} on the {self.device.type}"
        )

    def _gather(self, pool: BlockPool, pieces: Pieces, frames: int) -> list[tuple[np.ndarray, Frames]]:
        with self._turn:  # blocks must not go while another thread copies from them
            return list(pool.gather(pieces, frames))

    def _make_pools(self, entries: Sequence[BlockEntry], with_items: bool) -> list[BlockPool]:
        by_layout: dict[str, list[BlockEntry]] = {}
        for entry in sorted(entries, key=lambda entry: entry.layout):
            by_layout.setdefault(entry.layout, []).append(entry)
        return [BlockPool(some, self.shelf, self.device, with_items) for some in by_layout.values()]

    def _open_pools(self, options: StoreOptions) -> None:
        for pool in self._pools:
            if self.is_resident:
                pool.fill()
            else:
                room = options.resident_bytes * pool.needed_bytes // max(1, self.bytes)
                slots = max(room // max(1, pool.slot_bytes), options.least_blocks)
                pool.stream(min(slots, len(pool.entries)))


def _needed(index: Index, games: Sequence[GameEntry], partitions: frozenset[int] | None) -> list[BlockEntry]:
    names = {game.block for game in games}
    own = [block for block in index.blocks if partitions is None or block.partition in partitions]
    return [block for block in own if block.name in names]


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"


def _missing_table(games: Sequence[GameEntry]) -> np.ndarray:
    """(G, P, field) 1.0 where recorded, in the order of `PLAYER_FIELDS`."""
    table = np.ones((len(games), PLAYERS, len(PLAYER_FIELDS)), dtype=np.float32)
    places = {f"p{p}.{f.name}": (p, n) for p in range(PLAYERS) for n, f in enumerate(PLAYER_FIELDS)}
    for number, game in enumerate(games):
        for name in game.missing:
            table[(number, *places[name])] = 0.0
    return table
