"""What each worker of a training job runs: its part of the data and the loop, and for the first the run folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import read_experiment
from worldmodel.features.plan import Samples
from worldmodel.machine.device import describe_device, pick_device, set_up_device
from worldmodel.machine.fused import explain_missing_compiler, reset_fusing
from worldmodel.machine.gpu_memory import limit_memory
from worldmodel.machine.process import identify
from worldmodel.run.crew import LineStream, attach
from worldmodel.run.estimate import Estimator, Work, count_predicted, count_rolled, describe_spent
from worldmodel.run.interruption import Notices, describe_interruption, find_interruption
from worldmodel.run.journal import Journal
from worldmodel.run.pause import is_pause
from worldmodel.run.prices import price_workers
from worldmodel.run.record import Estimate, RunRecord
from worldmodel.run.run import Run
from worldmodel.run.run_folder import read_written
from worldmodel.run.timeline import MODEL, Phase, continue_in_worker, describe_timeline, note_first_step
from worldmodel.storage import Location
from worldmodel.training.compiled import check_compiler
from worldmodel.training.interval import Interval
from worldmodel.training.job import Job, fit_precision, make_trainer
from worldmodel.training.loop import Hooks, Trainer
from worldmodel.training.memory import explaining_full_memory
from worldmodel.training.workers import Workers

Report = Callable[[str], None]


def train_worker(settings: dict[str, Any]) -> None:
    """What each worker runs: its part of the data, the loop, and for the first the run folder."""
    rest, stream = attach(settings)
    job = Job(**rest)
    config = read_experiment(job.config, source="config.yaml")
    workers, neighbours = find_place(job.workers, config.training.device)
    device = workers.device
    set_up_device(device, deterministic=config.training.deterministic)
    limit_memory(device, job.share)
    check_compiler(config.training.compile, device)
    notes = prepare_kernels(config, device)
    torch.set_num_threads(config.training.threads or max(1, len(os.sched_getaffinity(0)) // neighbours))
    hosts = workers.gather(socket.gethostname())
    notices = Notices(rank=workers.rank, is_watched=job.workers > 1)
    older = read_written(Location.of(job.run))
    job = replace(job, resume=job.resume or workers.share(older.starts) > 0)
    if workers.is_first:
        train_first(job, config, workers, older, notices, hosts, stream, notes)
    else:
        trainer, _ = make_trainer(job, config, workers)
        with explaining_full_memory(trainer):
            trainer.run(Hooks(find_notice=notices.find))
    notices.leave()


def train_first(
    job: Job, config: ExperimentConfig, workers: Workers, older: RunRecord, notices: Notices, hosts: list[str],
    stream: LineStream | None, notes: list[str],
) -> None:  # fmt: skip
    """What the first worker does besides: it writes the run folder. `older`: the run's record so far."""
    run = Run(Location.of(job.run), older.model_copy(deep=True))
    run.may_go_on = job.workers > 1
    run.update(starts=older.starts + 1, hosts=hosts, **identify())
    note_price(run, job, workers)
    timeline = continue_in_worker(run.record.phases)
    with run.recording(), Journal(run, config, stream) as journal:
        for note in notes:
            run.note(note)
            journal.say(f"note: {note}")
        trainer, recovery = make_trainer(job, config, workers)
        timeline.mark(MODEL)
        journal.begin(trainer, recovery)
        hooks = replace(add_estimate(journal.hooks, trainer, run, journal.say), find_notice=notices.find)
        keep = partial(_keep_start, run, journal.say, older if older.starts else None, trainer.step)
        with explaining_full_memory(trainer):
            end = trainer.run(note_first_step(hooks, timeline, keep))
        if end and is_pause(end):
            run.pause(end)


def note_price(run: Run, job: Job, workers: Workers) -> None:
    """Record GPU, number of workers and price, which the driver may not know."""
    record, device = run.record, workers.device
    is_unknown = device.type == "cuda" and "gpu" not in record.device
    if is_unknown:
        run.update(device=describe_device(device))
    if record.starts > 1 and record.world_size != workers.world:
        run.update(seconds_before=record.seconds.total, cost_before_usd=record.cost_usd)
    if is_unknown or record.world_size != workers.world:
        run.update(world_size=workers.world, **price_workers(run.record.device, job.share, workers.world))


def prepare_kernels(config: ExperimentConfig, device: torch.device) -> list[str]:
    """Switch off what this GPU or its machine cannot do; returns notes on it for the user."""
    if device.type != "cuda":
        return []
    notes = []
    if fit_precision(config, device) is not config:
        notes.append("this GPU has no bfloat16: training.amp is left out, matrix products are in float32")
    reason = explain_missing_compiler(device)
    reset_fusing(enabled=reason is None)
    if reason:
        remedy = "`make gpu` installs Triton, which needs a C compiler (Debian, Ubuntu: build-essential)"
        notes.append(f"no kernel can be compiled here ({reason}): training runs, slower; {remedy}")
    return notes


def _keep_start(run: Run, say: Report, older: RunRecord | None, step: int, phases: list[Phase]) -> None:
    run.update(phases=phases)
    say(describe_timeline(phases))
    if older is not None:
        found = find_interruption(older, step, run.record.world_size)
        run.update(interruptions=[*older.interruptions, found])
        say(describe_interruption(found))


def add_estimate(hooks: Hooks, trainer: Trainer, run: Run, say: Report) -> Hooks:
    """The hooks, with the run's estimate made, recorded and said as soon as its pace is known."""
    plan, validation = trainer.feed.plan, trainer.validation
    every = np.arange(validation.store.game_count)
    lengths = validation.store.game_lengths(Samples(every, every))
    work = Work.of(
        plan,
        trainer.schedule.total_steps,
        count_predicted(lengths.tolist(), plan.shape),
        count_rolled(trainer.config.training),
    )
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


def find_place(count: int, wish: str) -> tuple[Workers, int]:
    """This worker among all with its device, and how many of them share its machine."""
    if count == 1:  # inside a trial of Ray Tune there is nobody to ask
        return Workers(device=pick_device(wish)), 1
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    device = pick_device(wish)
    if device.type == "cuda":
        device = ray.train.torch.get_device()
    workers = Workers(rank=context.get_world_rank(), world=context.get_world_size(), device=device)
    return workers, context.get_local_world_size()
