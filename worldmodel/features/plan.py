"""In which order frames are trained on: a pure function of (games, seed, step), whatever the number of workers.

1. A game of T frames gives samples: sequences of L targets one after another, or one window per target.
2. Games lie in canonical partitions by md5, in blocks of one partition each. In every epoch a partition permutes its
   blocks, and then its samples within groups of a few blocks: a group is all that a worker needs at hand.
3. The partitions are interleaved in proportion to their samples, so that all end together, and every B samples of that
   order are a batch. Worker r of W takes those of its own C/W partitions: what is learned from does not depend on W.

So an epoch has every target exactly once, and a resumed run continues with the very next batch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np

from worldmodel.blocks.index import PARTITIONS, GameEntry, partition_of
from worldmodel.errors import UserError

GROUP_BLOCKS = 4
"""Blocks whose samples are shuffled together."""
_GOLDEN_RATIO = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio: the products' highest bits are spread evenly (Knuth, TAOCP 3, 6.4)."""


@dataclass(frozen=True, kw_only=True)
class SampleShape:
    """What a sample is."""

    mode: Literal["sequence", "window"]
    context: int
    """Window: frames of context, K. Sequence: targets begin at frame K in evaluation (the windows' first target)."""
    length: int
    """Sequence: targets per sample, L. Unused for windows."""
    lookahead: int = 0
    """Frames beyond the next one that are predicted."""

    @property
    def inputs(self) -> int:
        """Context frames T of a sample."""
        return self.context if self.mode == "window" else self.length

    @property
    def positions(self) -> int:
        """Predictions N per sample."""
        return 1 if self.mode == "window" else self.length

    @property
    def frames(self) -> int:
        """Consecutive frames that a sample reads: context, next frame, lookahead."""
        return self.inputs + 1 + self.lookahead

    def count_targets(self, frames: int) -> int:
        """Targets in a game of so many frames."""
        first = self.context if self.mode == "window" else 1
        return max(0, frames - first - self.lookahead)


@dataclass(frozen=True)
class Samples:
    """Samples of a batch."""

    games: np.ndarray
    """(B,) indices into the plan's games."""
    starts: np.ndarray
    """(B,) first context frames."""
    swapped: np.ndarray | None = None
    """(B,) whether a sample is seen with its players in each other's place; None: no sample is."""

    def __len__(self) -> int:
        return len(self.games)

    def take(self, rows: np.ndarray | slice) -> Samples:
        """Some of them, by a mask, indices or a slice."""
        swapped = None if self.swapped is None else self.swapped[rows]
        return Samples(self.games[rows], self.starts[rows], swapped)


@dataclass(frozen=True, kw_only=True)
class Visit:
    """A partition's time with one group of its blocks."""

    partition: int
    begin: float
    """Where in its epoch it begins, 0 to 1; beyond 1 in the epoch after."""
    end: float
    blocks: tuple[str, ...]

    def delay(self) -> Visit:
        """The same, seen from the epoch before."""
        return replace(self, begin=self.begin + 1, end=self.end + 1)


class Plan:
    """The order of all samples of some games."""

    def __init__(
        self,
        games: Sequence[GameEntry],
        shape: SampleShape,
        batch_size: int,
        seed: int,
        *,
        swaps_players: bool = False,
    ) -> None:
        self.shape, self.batch_size, self.seed, self.swaps_players = shape, batch_size, seed, swaps_players
        self.games = list(games)
        frames = [game.frames for game in self.games]
        self.targets = np.array([shape.count_targets(count) for count in frames], dtype=np.int64)
        per_sample = 1 if shape.mode == "window" else shape.length
        self.counts = -(-self.targets // per_sample)
        self.partitions = np.array([partition_of(game.md5) for game in self.games], dtype=np.int64)
        self._first = np.concatenate([[0], np.cumsum(self.counts)])
        if not self.samples:
            raise UserError(
                f"none of {len(self.games)} games is long enough for a sample of {shape.frames} frames "
                f"(the longest has {max(frames, default=0)}): use a smaller context_len or sequence_length"
            )

    @property
    def samples(self) -> int:
        """Samples of an epoch."""
        return int(self._first[-1])

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch; the last may be smaller."""
        return -(-self.samples // self.batch_size)

    @property
    def epoch_targets(self) -> int:
        """Frames that are a target in an epoch, each once."""
        return int(self.targets.sum())

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Samples:
        """The samples of a global step (from 0) that fall to worker `rank` of `world`."""
        samples = self.global_batch(step)
        if world == 1:
            return samples
        return samples.take(self.partitions[samples.games] % world == rank)

    def global_batch(self, step: int) -> Samples:
        """All samples of a step, whoever computes them."""
        epoch, position = divmod(step, self.steps_per_epoch)
        ids = self._order(epoch)[position * self.batch_size : (position + 1) * self.batch_size]
        samples = self.locate(ids)
        return replace(samples, swapped=self._choose_swapped(ids, epoch)) if self.swaps_players else samples

    def _choose_swapped(self, ids: np.ndarray, epoch: int) -> np.ndarray:
        """A fixed half of the samples in every even epoch, the other half in every odd one."""
        mixed = (ids.astype(np.uint64) + np.uint64(self.seed)) * _GOLDEN_RATIO
        chosen: np.ndarray = (mixed >> np.uint64(63)).astype(bool)
        return chosen ^ bool(epoch % 2)

    def locate(self, ids: np.ndarray) -> Samples:
        """Game and first context frame of sample ids (0 .. `samples`)."""
        games = np.searchsorted(self._first, ids, side="right") - 1
        within = ids - self._first[games]
        stride = 1 if self.shape.mode == "window" else self.shape.length
        return Samples(games, within * stride)

    def count_valid(self, samples: Samples) -> np.ndarray:
        """Targets in each sample (B,): all but the last sequence of a game are full."""
        if self.shape.mode == "window":
            return np.ones(len(samples), dtype=np.int64)
        left: np.ndarray = self.targets[samples.games] - samples.starts
        return left.clip(max=self.shape.length)

    def blocks_ahead(self, step: int, partitions: frozenset[int]) -> tuple[str, ...]:
        """Names of blocks in the order in which some partitions need them, from a step on to the end of what follows.

        They are those of each partition's present group and of the groups behind it, into the next epoch. The answer
        is the same object as for the step before where no group has ended since.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        coming = self._coming(epoch, partitions)
        passed = bisect_left(coming, position * self.batch_size / self.samples, key=lambda visit: visit.end)
        return self._blocks_after(epoch, partitions, passed)

    @lru_cache(maxsize=2)  # noqa: B019  (a plan lives as long as its run)
    def _coming(self, epoch: int, partitions: frozenset[int]) -> list[Visit]:
        """Some partitions' visits in an epoch and the one after, by their ends."""
        visits = [*self._visits(epoch), *(visit.delay() for visit in self._visits(epoch + 1))]
        return sorted((visit for visit in visits if visit.partition in partitions), key=lambda visit: visit.end)

    @lru_cache(maxsize=2)  # noqa: B019
    def _blocks_after(self, epoch: int, partitions: frozenset[int], passed: int) -> tuple[str, ...]:
        visits = sorted(self._coming(epoch, partitions)[passed:], key=lambda visit: visit.begin)
        return tuple(dict.fromkeys(name for visit in visits for name in visit.blocks))

    def count_blocks_at_once(self, partitions: frozenset[int]) -> int:
        """Blocks that some partitions' groups have together, and one group more.

        That many a worker needs at hand at any time: a partition passes from one group to the next within a batch.
        """
        held = [len(self._blocks[partition]) for partition in partitions]
        return sum(min(GROUP_BLOCKS, count) for count in held) + GROUP_BLOCKS * any(n > GROUP_BLOCKS for n in held)

    @lru_cache(maxsize=2)  # noqa: B019  (a plan lives as long as its run)
    def _visits(self, epoch: int) -> list[Visit]:
        """When an epoch reads which blocks."""
        found = []
        for partition in range(PARTITIONS):
            groups = self._deal(np.random.default_rng([self.seed, epoch, partition]), partition)
            counts = [int(self.counts[[game for block in group for game in block]].sum()) for group in groups]
            ends = np.cumsum(counts) / max(1, sum(counts))
            for group, end, begin in zip(groups, ends.tolist(), [0.0, *ends.tolist()], strict=False):
                blocks = tuple(self.games[block[0]].block for block in group)
                found.append(Visit(partition=partition, begin=begin, end=end, blocks=blocks))
        return found

    @lru_cache(maxsize=2)  # noqa: B019
    def _order(self, epoch: int) -> np.ndarray:
        orders = [self._order_partition(epoch, partition) for partition in range(PARTITIONS)]
        # The place of a partition's i-th of n samples is (i + 1/2)/n of the epoch.
        places = np.concatenate([(np.arange(len(ids)) + 0.5) / max(1, len(ids)) for ids in orders])
        order: np.ndarray = np.concatenate(orders)[np.argsort(places, kind="stable")]
        return order

    def _order_partition(self, epoch: int, partition: int) -> np.ndarray:
        random = np.random.default_rng([self.seed, epoch, partition])
        ids = [
            random.permutation(np.concatenate([self._ids(game) for block in group for game in block]))
            for group in self._deal(random, partition)
        ]
        return np.concatenate(ids) if ids else np.zeros(0, dtype=np.int64)

    def _deal(self, random: np.random.Generator, partition: int) -> list[list[list[int]]]:
        """Groups of blocks of games' indices, in the order that the generator's first numbers give."""
        blocks = self._blocks[partition]
        shuffled = [blocks[i] for i in random.permutation(len(blocks))]
        return [shuffled[i : i + GROUP_BLOCKS] for i in range(0, len(shuffled), GROUP_BLOCKS)]

    def _ids(self, game: int) -> np.ndarray:
        return np.arange(self._first[game], self._first[game + 1])

    @cached_property
    def _blocks(self) -> list[list[list[int]]]:
        """Partition to its blocks (by name) to their games' indices (by row)."""
        found: list[dict[str, list[int]]] = [{} for _ in range(PARTITIONS)]
        for index in sorted(range(len(self.games)), key=lambda i: (self.games[i].block, self.games[i].row)):
            found[self.partitions[index]].setdefault(self.games[index].block, []).append(index)
        return [list(blocks.values()) for blocks in found]


def check_world(world: int) -> None:
    """UserError where so many workers cannot share the canonical partitions."""
    if not 1 <= world <= PARTITIONS:
        raise UserError(f"{world} workers cannot share {PARTITIONS} partitions of the data: use 1 to {PARTITIONS}")
