"""What a training job is, and the trainer that each of its workers makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import override
from worldmodel.machine.device import has_bfloat16
from worldmodel.model.build import build_model
from worldmodel.model.exchange import load_users_checkpoint, load_weights
from worldmodel.model.world_model import WorldModel
from worldmodel.storage import Location
from worldmodel.training.checkpoint import check_fits
from worldmodel.training.checkpoint_list import Recovery, newest_good
from worldmodel.training.data import Dataset, open_dataset
from worldmodel.training.feed import Feed, Worker, measure_room
from worldmodel.training.loop import Trainer
from worldmodel.training.memory import check_model_fits, explaining_full_start
from worldmodel.training.validation import open_validation
from worldmodel.training.workers import Workers


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every worker is told."""

    config: str
    """The experiment as YAML, complete."""
    run: str
    """URI of the run folder."""
    blocks: str
    """URI of the blocks."""
    workers: int
    resume: bool
    init: str
    share: float = 1.0
    """See `train.TrainRequest`; `limit_memory` keeps to it."""


def make_trainer(job: Job, config: ExperimentConfig, workers: Workers) -> tuple[Trainer, Recovery | None]:
    """The trainer of a job at the step from which it goes on, and what it was recovered from."""
    dataset = open_dataset(job.blocks, config)
    trainer = build_trainer(dataset, config, workers, init=job.init)
    recovery = newest_good(Location.of(job.run)) if job.resume else None
    if recovery and recovery.checkpoint:
        _restore(trainer, recovery, dataset.fingerprint)
    elif recovery and recovery.complaints:
        text = "\n  ".join(recovery.complaints)
        raise UserError(f"no checkpoint of {job.run} is sound; remove its checkpoints to begin again:\n  {text}")
    if job.resume and not workers.are_same(int(trainer.take(trainer.locate()).digest, 16)):
        raise RuntimeError(f"the workers did not find the same checkpoint in {job.run}: resume again")
    return trainer, recovery


def _restore(trainer: Trainer, recovery: Recovery, fingerprint: str) -> None:
    found, location = recovery.checkpoint, recovery.location
    if found is not None and location is not None:
        expected = trainer.locate().model_copy(update={"data_fingerprint": fingerprint})
        check_fits(location, found, expected, trainer.model)
        trainer.restore(found)


def build_trainer(dataset: Dataset, config: ExperimentConfig, workers: Workers, *, init: str = "") -> Trainer:
    """A trainer at its first step.

    Args:
        dataset: what it trains and validates on.
        config: the experiment.
        workers: this worker among all.
        init: a `.pt` whose weights it begins with; empty: fresh weights.

    Raises:
        DeviceFullError: the model and its data do not fit into what this process may take.
    """
    with explaining_full_start(workers.device):
        return _build_trainer(dataset, fit_precision(config, workers.device), workers, init)


def _build_trainer(dataset: Dataset, config: ExperimentConfig, workers: Workers, init: str) -> Trainer:
    room = measure_room(workers.device)
    worker = Worker(device=workers.device, rank=workers.rank, world=workers.world, resident_bytes=room)
    feed = Feed(dataset, config, worker)
    torch.manual_seed(config.training.seed)
    model = build_model(config.model, config.encoding.layout)
    if init:
        _begin_from(Path(init), model)
    check_model_fits(model, workers.device)
    model.to(workers.device)
    return Trainer(model, feed, open_validation(dataset, config, worker, feed.view), config, workers)


def fit_precision(config: ExperimentConfig, device: torch.device) -> ExperimentConfig:
    """The experiment in float32 (TF32 where the GPU has it) on a GPU without bfloat16, such as a T4."""
    if not config.training.amp or device.type != "cuda" or has_bfloat16(device):
        return config
    return override(config, {"training.amp": False})


def _begin_from(path: Path, model: WorldModel) -> None:
    found = load_users_checkpoint(path)
    if found.encoding != model.layout.config:
        raise UserError(f"{path} was trained with {found.encoding}, the experiment has {model.layout.config}")
    load_weights(model, found.weights, str(path))
