"""What a worker trains on at each step: its share of the global batch, as inputs and targets on its device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import psutil
import torch

from worldmodel.blocks.index import PARTITIONS, GameEntry
from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.features.batch import Inputs, Targets
from worldmodel.features.facts import FactReader
from worldmodel.features.plan import Plan, Samples, SampleShape
from worldmodel.features.store import LEAST_BLOCKS, FrameStore, StoreOptions
from worldmodel.features.view import FeatureView
from worldmodel.machine.gpu_memory import GpuMemory
from worldmodel.training.data import Dataset
from worldmodel.training.self_forcing import Excursion, ExcursionReader, find_length

RESIDENT_SHARE = 0.5
"""Share of the free memory that frames may take; more than that streams. Other programs use a CPU's memory too, and a
training step takes the same in a small share of a GPU as in a large one."""
RESIDENT_SHARE_GPU = 0.8
"""That of a whole GPU: 22,000 games (27.3 GB) stay on a card of 40 GB, and 8 GB are left for the step."""
VALIDATION_SHARE = 0.5
"""Share of that room which validation games may take: each epoch reads all of them, in an order of its own."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Who computes: one of `world` workers, on a device."""

    device: torch.device
    rank: int = 0
    world: int = 1
    resident_bytes: int = 1 << 62
    """Room for frames on the device."""

    @property
    def partitions(self) -> frozenset[int]:
        """The canonical partitions that are this worker's."""
        return frozenset(range(self.rank, PARTITIONS, self.world))


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A worker's share of a step."""

    inputs: Inputs
    targets: Targets
    denominators: dict[str, float]
    """Loss term to what the whole batch's sum is divided by, over the number of workers (see `compute_loss`)."""
    targets_in_all: int
    """Target frames of the whole batch, over all workers and parts."""
    part: int = 0
    """Which part of the batch this is."""
    excursion: Excursion | None = None
    """In a self-forcing step, what the model goes through alone; `denominators`: see `Feed`."""


def sample_shape(config: ExperimentConfig) -> SampleShape:
    """What a training sample of an experiment is."""
    return SampleShape(
        mode=config.training.mode,
        context=config.model.context_len,
        length=config.training.sequence_length,
        lookahead=config.encoding.lookahead,
    )


def plan_training(dataset: Dataset, config: ExperimentConfig) -> Plan:
    """The order of an experiment's training samples. UserError where no game is long enough."""
    training = config.training
    games, shape = dataset.split.train, sample_shape(config)
    return Plan(games, shape, training.batch_size, training.seed, swaps_players=training.swap_players)


def measure_room(device: torch.device) -> int:
    """Bytes of frames that may be copied to a device: a part of what this process may still take of its memory."""
    if device.type != "cuda":
        return int(RESIDENT_SHARE * psutil.virtual_memory().available)
    memory = GpuMemory.measure(device)
    return int((RESIDENT_SHARE if memory.is_shared else RESIDENT_SHARE_GPU) * memory.room)


def open_store(
    dataset: Dataset,
    games: Sequence[GameEntry],
    config: ExperimentConfig,
    worker: Worker,
    least_blocks: int | None = None,
) -> FrameStore:
    """The frames of a worker's part of some games. `least_blocks`: see `StoreOptions`."""
    options = StoreOptions(
        device=worker.device,
        resident_bytes=share_room(dataset, worker, is_training=games is dataset.split.train),
        with_items=config.encoding.projectiles,
        partitions=worker.partitions,
        least_blocks=least_blocks or LEAST_BLOCKS,
    )
    return FrameStore(dataset.shelf, dataset.index, games, options)


def share_room(dataset: Dataset, worker: Worker, is_training: bool) -> int:
    """Bytes of a worker's room that its training games may take, or other games beside them."""
    most = int(VALIDATION_SHARE * worker.resident_bytes)
    if not is_training:
        return most
    frames = sum(game.frames for game in dataset.split.validation)
    return worker.resident_bytes - min(most, int(frames * dataset.index.bytes_per_frame / worker.world))


class Feed:
    """Training batches by step number.

    A self-forcing step's errors are divided by an ordinary step's targets where those are more. Its frames are fewer
    (at most 3 N of a sequence), so the gradient of their mean is noise, and four times as long as an ordinary one.
    """

    def __init__(self, dataset: Dataset, config: ExperimentConfig, worker: Worker) -> None:
        games = dataset.split.train
        self.worker, self.shape = worker, sample_shape(config)
        self.plan = plan_training(dataset, config)
        self.store = open_store(dataset, games, config, worker, self.plan.count_blocks_at_once(worker.partitions))
        self.view = FeatureView(config.encoding, worker.device)
        self._present = self.view.count_present(self.store)
        self._forcing = config.self_forcing
        self._excursions = ExcursionReader(self.store, FactReader(config.encoding, worker.device), self.shape)
        self.parts = math.lcm(config.training.batch_parts, worker.world)
        """Into how many parts, by partition, a batch is cut; each worker computes its own one after another."""
        mine = np.flatnonzero(np.isin(self.plan.partitions, list(worker.partitions)) & (self.plan.counts > 0))
        self._idle = Samples(mine[:1], np.zeros(1, dtype=np.int64))
        """What a worker computes, to be masked, where its share of a step is empty: it still takes part."""

    def batches(self, step: int) -> list[Batch]:
        """This worker's parts of step `step` (from 0), in order."""
        everything = self.plan.global_batch(step)
        if not self.store.is_resident:
            self.store.expect(self.plan.blocks_ahead(step, self.worker.partitions))
        length = find_length(self._forcing, step, self.plan.steps_per_epoch)
        mine = range(self.worker.rank, self.parts, self.worker.world)
        return [self._part(everything, part, self.parts, length) for part in mine]

    def parts_of(self, step: int) -> list[Samples]:
        """The samples of each of `batches(step)`; an empty part's batch holds a masked one instead."""
        everything, mine = self.plan.global_batch(step), range(self.worker.rank, self.parts, self.worker.world)
        return [everything if self.parts == 1 else self._own(everything, part, self.parts) for part in mine]

    def batch(self, step: int) -> Batch:
        """This worker's whole share of step `step`, in one piece."""
        return self._part(self.plan.global_batch(step), self.worker.rank, self.worker.world)

    def _part(self, everything: Samples, part: int, parts: int, length: int = 0) -> Batch:
        """`length`: frames that the model makes alone; 0: an ordinary step."""
        ordinary = self.plan.count_valid(everything)
        valid = self._excursions.count(everything, length) if length else ordinary
        own = everything if parts == 1 else self._own(everything, part, parts)
        seen = own if len(own) else self._idle
        inputs, targets = self.view.view(self.store, seen, self.shape)
        excursion = self._excursions.read(seen, length, targets.present) if length else None
        if not len(own):
            targets = replace(targets, valid=torch.zeros_like(targets.valid))
            excursion = excursion and excursion.forbid()
        return Batch(
            excursion=excursion,
            inputs=inputs,
            targets=targets,
            denominators=self._denominators(everything, ordinary if ordinary.sum() > valid.sum() else valid),
            targets_in_all=int(valid.sum()),
            part=part,
        )

    def _own(self, everything: Samples, part: int, parts: int) -> Samples:
        return everything.take(self.plan.partitions[everything.games] % parts == part)

    def _denominators(self, samples: Samples, valid: np.ndarray) -> dict[str, float]:
        counts = {term: float((valid * present[samples.games]).sum()) for term, present in self._present.items()}
        return {term: count / self.worker.world for term, count in counts.items()}


def check_shares(plan: Plan, workers: int) -> None:
    """UserError where a worker of `workers` would have nothing to train on."""
    found = {int(partition) for partition in plan.partitions[plan.counts > 0]}
    idle = [rank for rank in range(workers) if not found & set(range(rank, PARTITIONS, workers))]
    if idle:
        raise UserError(
            f"{len(plan.games)} training games do not give each of {workers} workers a part of the data (worker "
            f"{idle[0]} has none): use fewer workers or more games"
        )
