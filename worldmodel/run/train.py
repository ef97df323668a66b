"""Training a run: everything is checked, the run folder made, the workers run, the card written.

The run folder is the truth: what a worker learns, logs and saves goes there, and the caller reads it from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldmodel.blocks.alarms import check_alarms
from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import override, to_yaml
from worldmodel.features.plan import Plan, check_world
from worldmodel.machine.device import describe_device, note_idle_gpu, pick_device, set_up_device
from worldmodel.machine.gpu_memory import limit_memory
from worldmodel.machine.process import release_memory
from worldmodel.model.exchange import load_users_checkpoint
from worldmodel.ray_session import check_address, is_on_cluster, read_address
from worldmodel.run.budget import Budget
from worldmodel.run.card import write_card
from worldmodel.run.certificate import certify
from worldmodel.run.crew import Crew, work
from worldmodel.run.lock import take_lock
from worldmodel.run.prices import price_workers
from worldmodel.run.record import RunRecord, State
from worldmodel.run.reporter import format_usd
from worldmodel.run.run import Run
from worldmodel.run.run_folder import check_same, describe_end, find_older, read_config, read_record, start_run
from worldmodel.run.timeline import CHECKS, DATA, begin_timeline
from worldmodel.run.train_worker import train_worker
from worldmodel.storage import Location
from worldmodel.training.compiled import check_compiler
from worldmodel.training.data import (
    Dataset,
    find_unrecorded,
    note_unrecorded,
    open_dataset,
    prepare_blocks,
    require_source,
)  # fmt: skip
from worldmodel.training.feed import check_shares, plan_training
from worldmodel.training.job import Job, build_trainer
from worldmodel.training.memory import choose_parts
from worldmodel.training.pulse import read_limit
from worldmodel.training.room import check_lengths, check_memory
from worldmodel.training.schedule import Schedule, compute_learning_rate
from worldmodel.training.validation import check_metric, check_validation
from worldmodel.training.workers import Workers

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What to train, and how."""

    config: ExperimentConfig
    workers: int = 1
    """Ray Train workers."""
    least_workers: int | None = None
    """With how few it goes on while machines are missing; None: it waits for all."""
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
    origins: Mapping[str, str] = field(default_factory=dict)
    """As `RunRecord.origins`."""
    axes: Mapping[str, Any] = field(default_factory=dict)
    """As `RunRecord.axes`."""
    introduction: str = ""
    """What is reported of the experiment once nothing stands against training it."""

    @property
    def sizes(self) -> range:
        """Numbers of workers that it may have."""
        return range(self.least_workers or self.workers, self.workers + 1)


def train(request: TrainRequest, report: Report = print) -> RunRecord:
    """Train a run to its end and return its record. UserError where it cannot begin; its own error where it fails."""
    timeline = begin_timeline(request.since)
    config, storage = request.config, Location.of(request.config.save_dir)
    for count in request.sizes:
        check_world(count)
    if request.workers > 1 and (address := read_address()):
        check_address(address)  # before games are encoded
    check_metric(config)
    read_limit()
    device = check_device(config, request.workers)
    if request.init:
        load_users_checkpoint(Path(request.init))  # what cannot be read must not cost the run its name
    older = find_older(storage, config.name, resume=request.resume)
    if older is not None:
        older = certify(storage / config.name)
    cost = price_run(request, device, older)
    blocks = prepare_blocks(require_source(config), config.save_dir, report)
    dataset = open_dataset(blocks, config)
    timeline.mark(DATA)
    check_lengths(config, dataset.split.train)
    plan = _plan(dataset, request, report)
    check_memory(config, 1 if request.auto_batch else plan.samples, device["type"], request.workers)
    if older:
        check_length(older, Schedule.of(config.training, plan.steps_per_epoch))
    if older and _is_complete(older, config, plan):
        check_same(storage / config.name, older, config, dataset.fingerprint)
        report(f"run {older.name!r} is {describe_end(older)}: nothing is left to train; --epochs asks for more")
        return older
    allowed = check_alarms(dataset.index, config.encoding.layout.field_names, config.data.allow, blocks)
    notes = allowed + (_compare_lengths(storage / config.name, older, config, plan) if older else [])
    notes += note_unrecorded(dataset.split.train)
    notes += note_idle_gpu(config.training.device, device["type"])
    check_budget(cost, request.budget, older)
    if request.auto_batch:
        config = fit_batch(dataset, request, report)
    timeline.mark(CHECKS)
    facts = {
        **cost, "data_fingerprint": dataset.fingerprint, "phases": timeline.phases, "world_size": request.workers,
        "device": device, "blocks": blocks, "unrecorded": find_unrecorded(dataset.split.train),
        "origins": dict(request.origins), "axes": dict(request.axes),
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
    job = Job(
        config=to_yaml(config), run=str(run.location), blocks=run.record.blocks, workers=request.workers,
        resume=request.resume, init=request.init, share=request.share,
    )  # fmt: skip
    uses_gpu = run.record.device["type"] == "cuda"
    crew = Crew(run=run.location, workers=request.workers, least=request.sizes[0], uses_gpu=uses_gpu)
    report(f"{run.location}: {len(dataset.split.train)} games train, {len(dataset.split.validation)} validate")
    try:
        work(train_worker, vars(job), crew)
    except BaseException:
        report(f"{run.location} keeps what happened; mended, the run goes on with: {run.record.resume_command}")
        raise
    finally:
        _write_card(run.location, report)
    return read_record(run.location)


def check_device(config: ExperimentConfig, workers: int) -> dict[str, Any]:
    """Facts of the device that trains, see `describe_device`. UserError if there is none.

    A cluster's workers have GPUs that this process may not see; the first worker records them.
    """
    if workers > 1 and config.training.device == "cuda" and is_on_cluster():
        return {"type": "cuda"}
    device = pick_device(config.training.device)
    check_compiler(config.training.compile, device)
    return describe_device(device)


def fit_batch(dataset: Dataset, request: TrainRequest, report: Report) -> ExperimentConfig:
    """The experiment with batches in as few parts as fit into the memory of the device. UserError where none do."""
    config = override(request.config, {"training.batch_parts": 1})
    device = pick_device(config.training.device)
    set_up_device(device, deterministic=config.training.deterministic)
    limit_memory(device, request.share)
    trainer = build_trainer(dataset, config, Workers(device=device))
    parts = choose_parts(trainer, request.workers, report)
    del trainer
    release_memory()
    return override(config, {"training.batch_parts": parts})


def price_run(request: TrainRequest, device: dict[str, Any], older: RunRecord | None) -> dict[str, Any]:
    """What a run's record says of its cost, as fields of `RunRecord`.

    UserError where dollars are limited and the price is unknown, or a price cannot be understood.
    """
    price = price_workers(device, request.share, request.workers)
    if request.budget.usd is not None and price["price_per_hour_usd"] is None:
        raise UserError(f"--budget-usd {request.budget.usd:g} needs a price, which is unknown: {price['price_origin']}")
    return {
        **price,
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


def check_length(older: RunRecord, wished: Schedule) -> None:
    """UserError where a run has done all the steps, and more, that are asked for now: it cannot become shorter, and
    would be taken for one that was trained and validated as asked."""
    if older.step >= wished.total_steps and (older.total_steps or 0) > wished.total_steps:
        raise UserError(
            f"run {older.name!r} has done {older.step} of {older.total_steps} steps, and only {wished.total_steps} "
            f"({wished.num_epochs} epochs) are asked for now: ask for as many as before, or start another run"
        )


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
    for count in request.sizes:
        check_shares(plan, count)
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
