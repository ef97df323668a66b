"""Training a run through Ray Train: in this process for one worker, a process each for several.

The run folder is the truth: what a worker learns, logs and saves goes there, and the caller reads it from there.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from worldmodel.errors import UserError
from worldmodel.features.plan import check_world
from worldmodel.model.build import build_model
from worldmodel.model.exchange import load_users_checkpoint, load_weights
from worldmodel.model.world_model import WorldModel
from worldmodel.ray_session import join_ray
from worldmodel.storage import Location
from worldmodel.training.card import write_card
from worldmodel.training.checkpoint_list import Recovery, newest_good
from worldmodel.training.config import ExperimentConfig
from worldmodel.training.config_file import read_experiment, to_yaml
from worldmodel.training.data import open_dataset, prepare_blocks, require_source
from worldmodel.training.device import describe_device, pick_device
from worldmodel.training.feed import Feed, Worker, measure_room
from worldmodel.training.journal import Journal
from worldmodel.training.loop import Hooks, Trainer
from worldmodel.training.record import RunRecord, State
from worldmodel.training.run import Run
from worldmodel.training.run_folder import LIVE, read_record, start_run
from worldmodel.training.validation import open_validation
from worldmodel.training.workers import Workers

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What to train, and how."""

    config: ExperimentConfig
    workers: int = 1
    """Ray Train workers."""
    resume: bool = False
    """Go on with the run of the experiment's name."""
    init: str = ""
    """Path of a `.pt` of the users' model classes whose weights the run begins with; empty: fresh weights."""


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


def train(request: TrainRequest, report: Report = print) -> RunRecord:
    """Train a run to its end and return its record. UserError where it cannot begin; its own error where it fails."""
    check_world(request.workers)
    config = request.config
    device = pick_device(config.training.device)
    blocks = prepare_blocks(require_source(config), config.save_dir, report)
    dataset = open_dataset(blocks, config)
    storage = Location.of(config.save_dir)
    run = start_run(
        storage, config, resume=request.resume, data_fingerprint=dataset.fingerprint, world_size=request.workers,
        device=describe_device(device), blocks=blocks,
    )  # fmt: skip
    job = Job(
        config=to_yaml(config), run=str(run.location), blocks=blocks, workers=request.workers, resume=request.resume,
        init=request.init,
    )  # fmt: skip
    report(f"{run.location}: {len(dataset.split.train)} games train, {len(dataset.split.validation)} validate")
    try:
        _fit(job, device)
    finally:
        write_card(run.location)
    return read_record(run.location)


def _fit(job: Job, device: torch.device) -> None:
    """Run the workers through Ray Train; what fails there is raised here and stands in the run's record."""
    several = job.workers > 1
    if several:
        join_ray(log_to_driver=True)
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    import ray.train
    from ray.train.torch import TorchTrainer

    location = Location.of(job.run)
    scaling = ray.train.ScalingConfig(num_workers=job.workers if several else 0, use_gpu=device.type == "cuda")
    # A name that was used before would silently continue Ray's own state of that run: ours lies in the run folder.
    place = location.parent / ".ray"
    settings = ray.train.RunConfig(
        name=f"{location.name}-{uuid.uuid4().hex[:8]}", storage_path=place.path, storage_filesystem=place.filesystem
    )
    trainer = TorchTrainer(train_worker, train_loop_config=vars(job), scaling_config=scaling, run_config=settings)
    try:
        trainer.fit()
    except BaseException as error:  # noqa: BLE001  (the edge between this process and the workers: recorded, raised)
        close_record(location, error)
        raise find_cause(error) from None


def find_cause(error: BaseException) -> BaseException:
    """The worker's own error inside Ray's."""
    inner = getattr(error, "worker_failures", None)
    found = next(iter(inner.values()), None) if isinstance(inner, dict) else None
    while found is not None and getattr(found, "cause", None) is not None:
        found = found.cause
    return found or error


def close_record(location: Location, error: BaseException) -> None:
    """Write how a run ended whose own process could not."""
    record = read_record(location)
    if record.state in (*LIVE, State.LOST):
        run = Run(location, record)
        run.update(state=State.FAILED, reason=f"{type(error).__name__}: {error}"[:500], traceback=str(error))
        run.write()


def train_worker(settings: dict[str, Any]) -> None:
    """What each worker runs: its part of the data, the loop, and for the first the run folder."""
    import ray.train

    job, context = Job(**settings), ray.train.get_context()
    config = read_experiment(job.config, source="config.yaml")
    device = pick_device(config.training.device)
    workers = Workers(rank=context.get_world_rank(), world=context.get_world_size(), device=device)
    threads = max(1, len(os.sched_getaffinity(0)) // context.get_local_world_size())
    torch.set_num_threads(config.training.threads or threads)
    if not workers.is_first:
        trainer, _ = make_trainer(job, config, workers)
        trainer.run(Hooks())
        return
    location = Location.of(job.run)
    run = Run(location, read_record(location))
    run.update(pid=os.getpid(), hosts=[socket.gethostname()])
    with run.recording(), Journal(run, config) as journal:
        trainer, recovery = make_trainer(job, config, workers)
        journal.begin(trainer, recovery)
        trainer.run(journal.hooks)


def make_trainer(job: Job, config: ExperimentConfig, workers: Workers) -> tuple[Trainer, Recovery | None]:
    """The trainer of a job at the step from which it goes on, and what it was recovered from."""
    worker = Worker(
        device=workers.device, rank=workers.rank, world=workers.world, resident_bytes=measure_room(workers.device)
    )
    dataset = open_dataset(job.blocks, config)
    feed = Feed(dataset, config, worker)
    torch.manual_seed(config.training.seed)
    model = build_model(config.model, config.encoding.layout)
    if job.init:
        _begin_from(Path(job.init), model)
    model.to(workers.device)
    trainer = Trainer(model, feed, open_validation(dataset, config, worker, feed.view), config, workers)
    recovery = newest_good(Location.of(job.run)) if job.resume else None
    if recovery and recovery.checkpoint:
        trainer.restore(recovery.checkpoint)
    return trainer, recovery


def _begin_from(path: Path, model: WorldModel) -> None:
    found = load_users_checkpoint(path)
    if found.encoding != model.layout.config:
        raise UserError(f"{path} was trained with {found.encoding}, the experiment has {model.layout.config}")
    load_weights(model, found.weights, str(path))
