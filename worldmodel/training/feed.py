"""What a worker trains on at each step: its share of the global batch, as inputs and targets on its device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import psutil
import torch
from torch import Tensor

from worldmodel.blocks.index import PARTITIONS, GameEntry
from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.features.batch import Inputs, Targets
from worldmodel.features.facts import FactReader
from worldmodel.features.plan import Plan, Samples, SampleShape
from worldmodel.features.spots import Spots, Traits, send
from worldmodel.features.store import LEAST_BLOCKS, FrameStore, Parts, StoreOptions
from worldmodel.features.view import FeatureView
from worldmodel.machine.gpu_memory import GpuMemory
from worldmodel.training.data import Dataset, choose_validated
from worldmodel.training.packet import Packet, PacketForm
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
    """A part of a worker's share of a step, on the device."""

    inputs: Inputs
    targets: Targets
    denominators: Tensor
    """(term,) what the whole batch's sums are divided by, over the number of workers (see `compute_loss`)."""
    targets_in_all: int
    """Target frames of the whole batch, over all workers and parts."""
    part: int = 0
    """Which part of the batch this is."""
    excursion: Excursion | None = None
    """In a self-forcing step, what the model goes through alone; `denominators`: see `Feed`."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """A worker's share of a step, on the host."""

    length: int
    """Frames that the model makes alone; 0: an ordinary step."""
    numbers: tuple[int, ...]
    """Which parts of the batch these are."""
    samples: tuple[Samples, ...]
    """Of each part; some may be there to fill it."""
    traits: tuple[np.ndarray, ...]
    """(3, B) of each part, see `Traits`."""
    denominators: np.ndarray
    targets_in_all: int


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
        resident_bytes=share_room(dataset, config, worker, is_training=games is dataset.split.train),
        with_items=config.encoding.projectiles,
        partitions=worker.partitions,
        least_blocks=least_blocks or LEAST_BLOCKS,
    )
    return FrameStore(dataset.shelf, dataset.index, games, options)


def share_room(dataset: Dataset, config: ExperimentConfig, worker: Worker, is_training: bool) -> int:
    """Bytes of a worker's room that its training games may take, or other games beside them."""
    most = int(VALIDATION_SHARE * worker.resident_bytes)
    if not is_training:
        return most
    frames = sum(game.frames for game in choose_validated(dataset.split, config))
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
        assert list(self._present) == [*self.view.layout.number_targets, *self.view.layout.class_targets]
        self._forcing = config.self_forcing
        self._excursions = ExcursionReader(self.store, FactReader(config.encoding, worker.device), self.shape)
        self.parts = math.lcm(config.training.batch_parts, worker.world)
        """Into how many parts, by partition, a batch is cut; each worker computes its own one after another."""
        self.opens_in_step = worker.device.type == "cuda" and self.store.is_of_one_layout
        """Whether steps are made from packets; else their batches are made ahead."""
        self.keeps_size = worker.device.type == "cuda"
        """Whether all steps have as many samples, some of which do not count."""
        self._mine = range(worker.rank, self.parts, worker.world)
        some = np.flatnonzero(np.isin(self.plan.partitions, list(worker.partitions)) & (self.plan.counts > 0))
        self._idle = Samples(some[:1], np.zeros(1, dtype=np.int64))

    def batches(self, step: int) -> list[Batch]:
        """This worker's parts of step `step` (from 0), in order."""
        return self._open(self._share(step))

    def batch(self, step: int) -> Batch:
        """This worker's whole share of step `step`, in one piece."""
        return self._open(self._deal(step, [self.worker.rank], self.worker.world, 0))[0]

    def packet(self, step: int, rate: float) -> Packet | None:
        """What `open` makes step `step` from. Its blocks stay at hand until `store.release`.

        None: its frames cannot be at hand together in one matrix, so `batches` has to read them one after another.
        """
        share = self._share(step)
        spots = self.store.hold(share.samples)
        if spots is None:
            return None
        form = PacketForm(len(self._present), tuple(map(len, share.samples)))
        tables = [np.concatenate(pair) for pair in zip(spots, share.traits, strict=True)]
        numbers = torch.from_numpy(form.write(step, rate, share.denominators, tables))
        return Packet(form=form, numbers=numbers, length=share.length, targets=share.targets_in_all)

    def open(self, packet: Packet) -> list[Batch]:
        """The batches of a packet whose numbers are on the device: the same operations for every packet of a form."""
        denominators = packet.form.denominators(packet.numbers)
        batches = []
        for number, part in zip(self._mine, packet.form.parts(packet.numbers), strict=True):

            def gather(frames: int, spots: Spots = part.spots) -> Parts:
                return [(np.empty(0), self.store.take(spots, frames))]

            batches.append(
                self._make(gather, part.traits, denominators, packet.length, targets_in_all=packet.targets, part=number)
            )
        return batches

    def parts_of(self, step: int) -> list[Samples]:
        """The samples of each of `batches(step)`, without those that fill a part up."""
        everything = self.plan.global_batch(step)
        return [self._own(everything, part, self.parts) for part in self._mine]

    def _share(self, step: int) -> Share:
        if not self.store.is_resident:
            self.store.expect(self.plan.blocks_ahead(step, self.worker.partitions))
        length = find_length(self._forcing, step, self.plan.steps_per_epoch)
        return self._deal(step, self._mine, self.parts, length)

    def _deal(self, step: int, numbers: Sequence[int], parts: int, length: int) -> Share:
        everything = self.plan.global_batch(step)
        ordinary = self.plan.count_valid(everything)
        valid = self._excursions.count(everything, length) if length else ordinary
        own = [self._own(everything, number, parts) for number in numbers]
        filled = [self._fill(some, number, parts) for some, number in zip(own, numbers, strict=True)]
        traits = [self.store.describe_samples(samples) for samples in filled]
        for some, table in zip(own, traits, strict=True):
            table[1, len(some) :] = 0
        return Share(
            length=length,
            numbers=tuple(numbers),
            samples=tuple(filled),
            traits=tuple(traits),
            denominators=self._denominators(everything, ordinary if ordinary.sum() > valid.sum() else valid),
            targets_in_all=int(valid.sum()),
        )

    def _open(self, share: Share) -> list[Batch]:
        denominators = send(share.denominators, self.worker.device)
        batches = []
        for number, samples, table in zip(share.numbers, share.samples, share.traits, strict=True):
            gather, traits = partial(self.store.gather, samples), Traits(*send(table, self.worker.device).unbind())
            batches.append(
                self._make(gather, traits, denominators, share.length, targets_in_all=share.targets_in_all, part=number)
            )
        return batches

    def _make(
        self, gather: Callable[[int], Parts], traits: Traits, denominators: Tensor, length: int, **known: int
    ) -> Batch:
        """A batch of samples; `gather`: gives so many frames of each."""
        swaps = self.plan.swaps_players
        inputs, targets = self.view.open(self.store, gather(self.shape.frames), traits, self.shape, swaps=swaps)
        excursion = None
        if length:
            frames = gather(self._excursions.count_frames(length))
            excursion = self._excursions.open(frames, traits, length, targets.present, swaps=swaps)
        return Batch(inputs=inputs, targets=targets, denominators=denominators, excursion=excursion, **known)

    def _fill(self, own: Samples, part: int, parts: int) -> Samples:
        """A part's samples, and what is computed besides, to be masked: a worker takes part in every step, and on a
        GPU all steps are of one size."""
        count = max(1, len(own))
        if self.keeps_size:
            count = max(count, bound_part(self.plan, part, parts))
        if count == len(own):
            return own
        more = self._idle.take(np.zeros(count - len(own), dtype=np.int64))
        swapped = None if own.swapped is None else np.pad(own.swapped, (0, len(more)))
        return Samples(np.append(own.games, more.games), np.append(own.starts, more.starts), swapped)

    def _own(self, everything: Samples, part: int, parts: int) -> Samples:
        if parts == 1:
            return everything
        return everything.take(self.plan.partitions[everything.games] % parts == part)

    def _denominators(self, samples: Samples, valid: np.ndarray) -> np.ndarray:
        counts = [float((valid * present[samples.games]).sum()) for present in self._present.values()]
        return np.array([count / self.worker.world for count in counts], dtype=np.float32)


def bound_part(plan: Plan, part: int, parts: int) -> int:
    """Samples that a part of a batch has at most: the plan spreads each partition evenly over an epoch."""
    if parts == 1:
        return min(plan.batch_size, plan.samples)
    each = np.bincount(plan.partitions, plan.counts, PARTITIONS)[part::parts]
    most = np.ceil(each * (plan.batch_size + PARTITIONS) / plan.samples) + 1
    return int(min(plan.batch_size, most[each > 0].sum()))


def check_shares(plan: Plan, workers: int) -> None:
    """UserError where a worker of `workers` would have nothing to train on."""
    found = {int(partition) for partition in plan.partitions[plan.counts > 0]}
    idle = [rank for rank in range(workers) if not found & set(range(rank, PARTITIONS, workers))]
    if idle:
        raise UserError(
            f"{len(plan.games)} training games do not give each of {workers} workers a part of the data (worker "
            f"{idle[0]} has none): use fewer workers or more games"
        )
