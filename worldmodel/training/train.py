"""Training a run: everything is checked, the run folder made, the workers run, the card written.

The run folder is the truth: what a worker learns, logs and saves goes there, and the caller reads it from there.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from math import lcm
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel.blocks.alarms import check_alarms
from worldmodel.errors import UserError
from worldmodel.features.plan import Plan, Samples, check_world
from worldmodel.model.build import build_model
from worldmodel.model.exchange import load_users_checkpoint, load_weights
from worldmodel.model.world_model import WorldModel
from worldmodel.storage import Location
from worldmodel.training.budget import Budget
from worldmodel.training.card import write_card
from worldmodel.training.certificate import certify
from worldmodel.training.checkpoint import check_fits
from worldmodel.training.checkpoint_list import Recovery, newest_good
from worldmodel.training.compiled import check_compiler, note_graphs
from worldmodel.training.config import ExperimentConfig
from worldmodel.training.config_file import override, read_experiment, to_yaml
from worldmodel.training.crew import Crew, attach, work
from worldmodel.training.data import Dataset, open_dataset, prepare_blocks, require_source
from worldmodel.training.device import describe_device, pick_device
from worldmodel.training.estimate import Estimator, Work, count_predicted, describe_spent
from worldmodel.training.feed import Feed, Worker, check_shares, measure_room, plan_training
from worldmodel.training.journal import Journal
from worldmodel.training.lock import take_lock
from worldmodel.training.loop import Hooks, Trainer
from worldmodel.training.memory import choose_parts, explaining_full_memory, release_memory
from worldmodel.training.prices import count_held, find_price, read_prices
from worldmodel.training.process import identify
from worldmodel.training.pulse import read_limit
from worldmodel.training.record import Estimate, RunRecord, State
from worldmodel.training.reporter import Interval, format_usd
from worldmodel.training.run import Run
from worldmodel.training.run_folder import check_same, describe_end, find_older, read_config, read_record, start_run
from worldmodel.training.schedule import Schedule, compute_learning_rate
from worldmodel.training.timeline import (
    CHECKS,
    DATA,
    MODEL,
    Phase,
    begin_timeline,
    continue_in_worker,
    describe_timeline,
    note_first_step,
)
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
    budget: Budget = field(default_factory=Budget)
    """What the run may take, all its attempts together."""
    share: float = 1.0
    """Part of a GPU that each worker holds, and pays for; without GPUs, of a machine, which the workers share."""
    auto_batch: bool = False
    """Try how many samples at a time fit into the device's memory, and cut batches into parts accordingly."""
    since: float | None = None
    """When its command began, in seconds since 1970; None: now."""
    introduction: str = ""
    """What is reported of the experiment once nothing stands against training it."""


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
    """See `TrainRequest`."""


def train(request: TrainRequest, report: Report = print) -> RunRecord:
    """Train a run to its end and return its record. UserError where it cannot begin; its own error where it fails."""
    timeline = begin_timeline(request.since)
    config, storage = request.config, Location.of(request.config.save_dir)
    check_world(request.workers)
    check_metric(config)
    read_limit()
    device = pick_device(config.training.device)
    check_compiler(config.training.compile, device)
    if request.init:
        load_users_checkpoint(Path(request.init))  # what cannot be read must not cost the run its name
    older = find_older(storage, config.name, resume=request.resume)
    if older is not None:
        older = certify(storage / config.name)
    cost = price_run(request, describe_device(device), older)
    blocks = prepare_blocks(require_source(config), config.save_dir, report)
    dataset = open_dataset(blocks, config)
    timeline.mark(DATA)
    plan = _plan(dataset, request, report)
    if older and _is_complete(older, config, plan):
        check_same(storage / config.name, older, config, dataset.fingerprint)
        report(f"run {older.name!r} is {describe_end(older)}: nothing is left to train; --epochs asks for more")
        return older
    allowed = check_alarms(dataset.index, config.encoding.layout.field_names, config.data.allow, blocks)
    notes = allowed + (_compare_lengths(storage / config.name, older, config, plan) if older else [])
    check_budget(cost, request.budget, older)
    if request.auto_batch:
        config = fit_batch(dataset, request, report)
    notes += note_graphs(config.training.compile, lcm(config.training.batch_parts, request.workers) // request.workers)
    timeline.mark(CHECKS)
    facts = {
        **cost, "data_fingerprint": dataset.fingerprint, "phases": timeline.phases, "world_size": request.workers,
        "device": describe_device(device), "blocks": blocks,
    }  # fmt: skip
    with take_lock(storage / config.name, report) as lock:
        run = start_run(storage, config, resume=request.resume, lock=lock.token, **facts)
        for text in notes:
            run.note(text)
        run.write()  # the first worker reads it from there
        _introduce(request, run, notes, report)
        return _carry_out(request, config, run, dataset, report)


def _carry_out(
    request: TrainRequest, config: ExperimentConfig, run: Run, dataset: Dataset, report: Report
) -> RunRecord:
    """Let the workers train a run that has begun, and write its card however that ends."""
    blocks, device = run.record.blocks, pick_device(config.training.device)
    job = Job(
        config=to_yaml(config), run=str(run.location), blocks=blocks, workers=request.workers, resume=request.resume,
        init=request.init, share=request.share,
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


def fit_batch(dataset: Dataset, request: TrainRequest, report: Report) -> ExperimentConfig:
    """The experiment with batches in as few parts as fit into the memory of the device. UserError where none do."""
    config = override(request.config, {"training.batch_parts": 1})
    device = pick_device(config.training.device)
    trainer = build_trainer(dataset, config, Workers(device=device), share=request.share)
    parts = choose_parts(trainer, request.workers, report)
    del trainer
    release_memory(device)
    return override(config, {"training.batch_parts": parts})


def price_run(request: TrainRequest, device: dict[str, Any], older: RunRecord | None) -> dict[str, Any]:
    """What a run's record says of its cost, as fields of `RunRecord`.

    UserError where dollars are limited and the price is unknown, or a price cannot be understood.
    """
    price = find_price(device, read_prices())
    if request.budget.usd is not None and price.usd_per_hour is None:
        raise UserError(f"--budget-usd {request.budget.usd:g} needs a price, which is unknown: {price.origin}")
    held = count_held(device, request.share, request.workers)
    return {
        "price_per_hour_usd": None if price.usd_per_hour is None else price.usd_per_hour * held,
        "price_origin": price.origin + (f"; {held:g} of it" if held != 1 and price.usd_per_hour is not None else ""),
        "budget": request.budget if request.budget != Budget() else None,
        "seconds_before": older.seconds.total if older else 0.0,
        "cost_before_usd": older.cost_usd if older else None,
    }


def check_budget(cost: dict[str, Any], budget: Budget, older: RunRecord | None) -> None:
    """UserError where a run's earlier attempts have used its budget up."""
    if older is None:
        return
    seconds = older.seconds.total
    spent = RunRecord(name=older.name, command="", commit=None, **cost).price(seconds)
    if reason := budget.find_end(seconds, spent):
        needed = older.seconds_promised or 0.0
        options = budget.propose(needed, older.price(needed)).apply_to("")
        raise UserError(f"run {older.name!r} cannot go on: {reason}; ask for more, such as {options}")


def _introduce(request: TrainRequest, run: Run, notes: list[str], report: Report) -> None:
    """Say what is about to be trained, and what it costs."""
    record = run.record
    if request.introduction:
        report(request.introduction)
    for text in notes:
        report(f"note: {text}")
    if record.price_per_hour_usd is not None:
        report(f"price: {format_usd(record.price_per_hour_usd)} an hour ({record.price_origin})")
    elif record.device.get("gpu"):
        report(f"price unknown: {record.price_origin}")


def _compare_lengths(location: Location, older: RunRecord, config: ExperimentConfig, plan: Plan) -> list[str]:
    """What a resume changes that asks for another length: the learning rate is a function of the whole."""
    was, now = (Schedule.of(c.training, plan.steps_per_epoch) for c in (read_config(location), config))
    if (was.total_steps, was.num_epochs) == (now.total_steps, now.num_epochs):
        return []
    rates = [compute_learning_rate(schedule, older.step) for schedule in (was, now)]
    return [
        f"the run was to have {was.total_steps} steps ({was.num_epochs} epochs), from step {older.step} on it has "
        f"{now.total_steps} ({now.num_epochs} epochs): the learning rate goes on by the new schedule, at "
        f"{rates[1]:.3e} instead of {rates[0]:.3e}"
    ]


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
    hosts = workers.gather(socket.gethostname())
    if not workers.is_first:
        trainer, _ = make_trainer(job, config, workers)
        with explaining_full_memory(trainer):
            trainer.run(Hooks())
        return
    location = Location.of(job.run)
    run = Run(location, read_record(location))
    run.update(hosts=hosts, **identify())
    timeline = continue_in_worker(run.record.phases)
    with run.recording(), Journal(run, config, stream) as journal:
        trainer, recovery = make_trainer(job, config, workers)
        timeline.mark(MODEL)
        journal.begin(trainer, recovery)
        hooks = add_estimate(journal.hooks, trainer, run, journal.say)
        with explaining_full_memory(trainer):
            trainer.run(note_first_step(hooks, timeline, partial(_keep_phases, run, journal.say)))


def _keep_phases(run: Run, say: Report, phases: list[Phase]) -> None:
    run.update(phases=phases)
    say(describe_timeline(phases))


def add_estimate(hooks: Hooks, trainer: Trainer, run: Run, say: Report) -> Hooks:
    """The hooks, with the run's estimate made, recorded and said as soon as its pace is known."""
    plan, validation = trainer.feed.plan, trainer.validation
    every = np.arange(validation.store.game_count)
    lengths = validation.store.game_lengths(Samples(every, every))
    work = Work.of(plan, trainer.schedule.total_steps, count_predicted(lengths.tolist(), plan.shape))
    estimator = Estimator(work, trainer.step)

    def note_interval(interval: Interval, values: dict[str, float]) -> None:
        hooks.on_interval(interval, values)
        seconds = estimator.add(interval, run.elapsed)
        if seconds is not None:
            price = run.record.price_per_hour_usd
            cost = None if price is None else price * seconds / 3600
            run.update(estimate=Estimate(seconds=seconds, cost_usd=cost, step=interval.step))
            say(f"estimate: {describe_spent(seconds, cost)} from start to end")

    return replace(hooks, on_interval=note_interval)


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
    dataset = open_dataset(job.blocks, config)
    trainer = build_trainer(dataset, config, workers, init=job.init, share=job.share)
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


def build_trainer(
    dataset: Dataset, config: ExperimentConfig, workers: Workers, *, init: str = "", share: float = 1.0
) -> Trainer:
    """A trainer at its first step.

    Args:
        dataset: what it trains and validates on.
        config: the experiment.
        workers: this worker among all.
        init: a `.pt` whose weights it begins with; empty: fresh weights.
        share: what the worker holds of a GPU.
    """
    room = measure_room(workers.device, share)
    worker = Worker(device=workers.device, rank=workers.rank, world=workers.world, resident_bytes=room)
    feed = Feed(dataset, config, worker)
    torch.manual_seed(config.training.seed)
    model = build_model(config.model, config.encoding.layout)
    if init:
        _begin_from(Path(init), model)
    model.to(workers.device)
    return Trainer(model, feed, open_validation(dataset, config, worker, feed.view), config, workers)


def _begin_from(path: Path, model: WorldModel) -> None:
    found = load_users_checkpoint(path)
    if found.encoding != model.layout.config:
        raise UserError(f"{path} was trained with {found.encoding}, the experiment has {model.layout.config}")
    load_weights(model, found.weights, str(path))
