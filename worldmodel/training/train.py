"""Training a run: everything is checked, the run folder made, the workers run, the card written.

The run folder is the truth: what a worker learns, logs and saves goes there, and the caller reads it from there.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from worldmodel.errors import UserError
from worldmodel.features.plan import Plan, check_world
from worldmodel.model.build import build_model
from worldmodel.model.exchange import load_users_checkpoint, load_weights
from worldmodel.model.world_model import WorldModel
from worldmodel.storage import Location
from worldmodel.training.card import write_card
from worldmodel.training.checkpoint_list import Recovery, newest_good
from worldmodel.training.config import ExperimentConfig
from worldmodel.training.config_file import read_experiment, to_yaml
from worldmodel.training.crew import Crew, attach, work
from worldmodel.training.data import Dataset, open_dataset, prepare_blocks, require_source
from worldmodel.training.device import describe_device, pick_device
from worldmodel.training.feed import Feed, Worker, check_shares, measure_room, plan_training
from worldmodel.training.journal import Journal
from worldmodel.training.loop import Hooks, Trainer
from worldmodel.training.record import RunRecord, State
from worldmodel.training.run import Run
from worldmodel.training.run_folder import check_same, describe_end, find_older, read_record, start_run
from worldmodel.training.schedule import Schedule
from worldmodel.training.validation import check_metric, check_validation, open_validation
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
    config, storage = request.config, Location.of(request.config.save_dir)
    check_world(request.workers)
    check_metric(config)
    device = pick_device(config.training.device)
    if request.init:
        load_users_checkpoint(Path(request.init))  # what cannot be read must not cost the run its name
    older = find_older(storage, config.name, resume=request.resume)
    blocks = prepare_blocks(require_source(config), config.save_dir, report)
    dataset = open_dataset(blocks, config)
    plan = _plan(dataset, request, report)
    if older and _is_complete(older, config, plan):
        check_same(storage / config.name, older, config, dataset.fingerprint)
        report(f"run {older.name!r} is {describe_end(older)}: nothing is left to train; --epochs asks for more")
        return older
    run = start_run(
        storage, config, resume=request.resume, data_fingerprint=dataset.fingerprint,
        world_size=request.workers, device=describe_device(device), blocks=blocks,
    )  # fmt: skip
    job = Job(
        config=to_yaml(config), run=str(run.location), blocks=blocks, workers=request.workers, resume=request.resume,
        init=request.init,
    )  # fmt: skip
    report(f"{run.location}: {len(dataset.split.train)} games train, {len(dataset.split.validation)} validate")
    try:
        work(train_worker, vars(job), Crew(run=run.location, workers=request.workers, device=device))
    except BaseException:
        report(f"{run.location} keeps what happened; mended, the run goes on with: {run.record.resume_command}")
        raise
    finally:
        _write_card(run.location, report)
    return read_record(run.location)


def _plan(dataset: Dataset, request: TrainRequest, report: Report) -> Plan:
    """The order of training samples. UserError where there is nothing for a worker to train on, or to validate on."""
    plan, batch = plan_training(dataset, request.config), request.config.training.batch_size
    check_shares(plan, request.workers)
    check_validation(dataset, request.config)
    if plan.samples < batch:
        report(f"note: training.batch_size {batch} takes all {plan.samples} samples of an epoch at once")
    return plan


def _write_card(location: Location, report: Report) -> None:
    try:
        write_card(location)
    except UserError as error:  # a card must not cost a run
        report(f"note: no card: {error}")


def _is_complete(record: RunRecord, config: ExperimentConfig, plan: Plan) -> bool:
    """Whether a run has done all the steps that the experiment asks for."""
    total = Schedule.of(config.training, plan.steps_per_epoch).total_steps
    return record.state is State.FINISHED and record.step >= total


def train_worker(settings: dict[str, Any]) -> None:
    """What each worker runs: its part of the data, the loop, and for the first the run folder."""
    rest, stream = attach(settings)
    job = Job(**rest)
    config = read_experiment(job.config, source="config.yaml")
    device = pick_device(config.training.device)
    workers, neighbours = find_place(job.workers, device)
    torch.set_num_threads(config.training.threads or max(1, len(os.sched_getaffinity(0)) // neighbours))
    if not workers.is_first:
        trainer, _ = make_trainer(job, config, workers)
        trainer.run(Hooks())
        return
    location = Location.of(job.run)
    run = Run(location, read_record(location))
    run.update(pid=os.getpid(), hosts=[socket.gethostname()])
    with run.recording(), Journal(run, config, stream) as journal:
        trainer, recovery = make_trainer(job, config, workers)
        journal.begin(trainer, recovery)
        trainer.run(journal.hooks)


def find_place(count: int, device: torch.device) -> tuple[Workers, int]:
    """This worker among all, and how many of them share its machine."""
    if count == 1:  # inside a trial of Ray Tune there is nobody to ask
        return Workers(device=device), 1
    import ray.train

    context = ray.train.get_context()
    workers = Workers(rank=context.get_world_rank(), world=context.get_world_size(), device=device)
    return workers, context.get_local_world_size()


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
