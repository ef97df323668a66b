"""Runs in processes of their own that end as runs end in the world: killed, asked to stop, out of memory.

A child is forked, so that it costs no imports; it does what a worker of Ray Train does, without Ray.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.training.tiny_runs import CPU, open_data
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import to_yaml
from worldmodel.run import train_worker as train_worker_module
from worldmodel.run.budget import Budget
from worldmodel.run.interruption import Notices
from worldmodel.run.record import RunRecord
from worldmodel.run.run import Run
from worldmodel.run.run_folder import read_record, start_run
from worldmodel.run.stop_request import STOP
from worldmodel.run.tracking import read_metrics
from worldmodel.run.train_worker import train_worker
from worldmodel.storage import Location
from worldmodel.training import checkpoint_files, meeting
from worldmodel.training.checkpoint import Checkpoint
from worldmodel.training.checkpoint_list import newest_good
from worldmodel.training.feed import Batch, Feed
from worldmodel.training.job import Job
from worldmodel.training.loop import Trainer
from worldmodel.training.step import Learner, Made
from worldmodel.training.workers import Workers

BAD_VALUE = "bad value"
"""Kind of an `Ending`: at its step the data hold something that is no number."""
SECONDS = 120.0
"""Longest time that a child may take."""


@dataclass(kw_only=True)
class Ending:
    """What ends a run, and when."""

    kind: str = "none"
    """A key of `ENDINGS`, `BAD_VALUE`, or "none"."""
    step: int = 0
    """It happens before this step is trained."""
    rank: int | None = None
    """Only in this worker; None: in all."""
    sign: int | None = None
    """It happens instead at this sign of progress of a validation, counted in the worker; workers meet at each."""


@dataclass(kw_only=True)
class Place:
    """Where runs of one experiment lie."""

    blocks: Path
    storage: Path
    trained: list[tuple[int, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)

    def run(self, config: ExperimentConfig, ending: Ending | None = None, workers: int = 1) -> list[int]:
        """Begin a run, or go on with it, until it ends; returns the exit status of each worker (-9: killed)."""
        storage = Location.of(self.storage)
        has_begun = (storage / config.name / "run.json").exists()
        fingerprint = open_data(config, self.blocks).fingerprint
        run = start_run(storage, config, resume=has_begun, data_fingerprint=fingerprint, world_size=workers)
        job = Job(
            config=to_yaml(config), run=str(run.location), blocks=str(self.blocks), workers=workers, resume=has_begun,
            init="",
        )  # fmt: skip
        work = partial(_work, job, ending or Ending(), place=tempfile.mktemp(dir=self.storage))
        return fork([partial(work, rank=rank) for rank in range(workers)])

    def read(self, config: ExperimentConfig) -> RunRecord:
        """The run's record."""
        return read_record(Location.of(self.storage) / config.name)

    def take(self, config: ExperimentConfig) -> Outcome:
        """What a finished run has learnt and said."""
        run = Location.of(self.storage) / config.name
        found = newest_good(run).checkpoint
        assert found is not None
        rows = {row["step"]: {n: v for n, v in row.items() if _is_learnt(n)} for row in read_metrics(run)}
        return Outcome(checkpoint=found, rows=rows)

    def read_samples(self, config: ExperimentConfig) -> dict[int, set[tuple[int, int, bool]]]:
        """Step to the samples that all workers together have trained on."""
        found: dict[int, set[tuple[int, int, bool]]] = {}
        for file in (self.storage / config.name).glob("samples-*.txt"):
            for line in file.read_text().splitlines():
                step, game, start, swapped = line.split()
                found.setdefault(int(step), set()).add((int(game), int(start), swapped == "True"))
        return found


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What two runs must have in common to be the same."""

    checkpoint: Checkpoint
    rows: dict[int, dict[str, Any]]
    """Metrics by step: loss, gradient and learning rate of every one, and those of each epoch."""

    def differs(self, other: Outcome) -> list[str]:
        """In what two outcomes differ; empty: in not one bit."""
        mine, theirs = self.checkpoint, other.checkpoint
        pairs = {
            "weights and optimizer": (mine.digest, theirs.digest),
            "step": (mine.state.step, theirs.state.step),
            "best": (mine.state.best, theirs.state.best),
            "steps": (set(self.rows), set(other.rows)),
            **{f"step {step}": (row, other.rows.get(step)) for step, row in self.rows.items()},
        }
        return [name for name, (one, two) in pairs.items() if one != two]


def _is_learnt(name: str) -> bool:
    return name not in ("step", "time") and not name.startswith("speed/")


def fork(works: Sequence[Callable[[], None]]) -> list[int]:
    """Does each work in a process of its own; their exit statuses (minus the signal's number where one ended it)."""
    pids = [fork_one(work) for work in works]
    statuses, until = {}, time.monotonic() + SECONDS
    while len(statuses) < len(pids):
        for pid in set(pids) - set(statuses):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                statuses[pid] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            for pid in set(pids) - set(statuses):
                os.kill(pid, signal.SIGKILL)
            until += SECONDS
        time.sleep(0.01)
    return [statuses[pid] for pid in pids]


def fork_one(work: Callable[[], None]) -> int:
    """Does a work in a process of its own, and returns that process's number at once."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except BaseException:  # noqa: BLE001  (the child's edge)
        traceback.print_exc()
    finally:
        os._exit(status)


def _work(job: Job, ending: Ending, *, rank: int, place: str) -> None:
    """What one worker does, with its end prepared. In a child of its own, so nothing is put back."""
    torch.set_num_threads(1)
    torch.manual_seed(os.getpid())  # what happened before in a process is of no account
    workers = Workers(device=CPU, rank=rank, world=job.workers)
    if job.workers > 1:
        dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=job.workers)
    train_worker_module.find_place = lambda count, device: (workers, job.workers)
    Notices.find = lambda self: None  # type: ignore[method-assign]  # Ray Train is not there
    _log_samples(Path(job.run) / f"samples-{rank}.txt")
    meeting.SECONDS = 0.0
    if ending.kind != "none" and ending.rank in (None, rank):
        _prepare(ending)
    train_worker(vars(job))


def _log_samples(file: Path) -> None:
    """Writes which samples each step was trained on."""
    run = Learner.run

    def run_and_tell(self: Learner, step: int, rate: float, made: Made) -> None:
        with file.open("a") as stream:
            for part in self.feed.parts_of(step):
                swapped = [False] * len(part) if part.swapped is None else part.swapped.tolist()
                for game, start, swap in zip(part.games.tolist(), part.starts.tolist(), swapped, strict=True):
                    stream.write(f"{step} {game} {start} {bool(swap)}\n")
        run(self, step, rate, made)

    Learner.run = run_and_tell  # type: ignore[method-assign]


def _prepare(ending: Ending) -> None:
    if ending.kind == BAD_VALUE:
        _poison(ending.step)
        return
    runs: list[Run] = []
    recording = Run.recording

    def remember(self: Run) -> Any:
        runs.append(self)
        return recording(self)

    Run.recording = remember  # type: ignore[method-assign]
    step, end = Trainer._train_step, ENDINGS[ending.kind]
    if ending.sign is not None:
        _end_in_validation(ending.sign, lambda: end(runs[0] if runs else None))
        return

    def step_or_end(self: Trainer) -> None:
        if self.step == ending.step:
            end(runs[0] if runs else None)
        step(self)

    Trainer._train_step = step_or_end  # type: ignore[method-assign]


def _end_in_validation(sign: int, end: Callable[[], None]) -> None:
    tell, signs = meeting.Meeting.tell, []

    def tell_and_end(self: meeting.Meeting, doing: str, done: int, whole: int) -> None:
        signs.append(doing)
        if len(signs) == sign:
            end()
        tell(self, doing, done, whole)

    meeting.Meeting.tell = tell_and_end  # type: ignore[method-assign]


def _poison(step: int) -> None:
    """One number of one sample of this worker's is none."""
    make = Feed.batches

    def batches(self: Feed, wanted: int) -> list[Batch]:
        first, *others = make(self, wanted)
        if wanted == step:
            floats = first.inputs.floats.clone()
            floats[0, 1, 2] = float("nan")
            first = replace(first, inputs=replace(first.inputs, floats=floats))
        return [first, *others]

    Feed.batches = batches  # type: ignore[method-assign]


def _kill(run: Run | None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_after_sign_of_life(run: Run | None) -> None:
    assert run is not None
    run._write_alive(False)
    _kill(run)


def _kill_while_saving(run: Run | None) -> None:
    """Dies at the next checkpoint, when half of it is written."""
    write = checkpoint_files.write_through

    def die(path: Path, content: bytes) -> None:
        write(path, content[: len(content) // 2])
        _kill(run)

    checkpoint_files.write_through = die


def _terminate(run: Run | None) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _ask_to_stop(run: Run | None) -> None:
    assert run is not None
    (run.location / STOP).write_text("asked by a test\n")
    _wait_for_reason(run)


def _spend_budget(run: Run | None) -> None:
    assert run is not None
    run._budget = Budget(hours=1e-9)
    _wait_for_reason(run)


def _wait_for_reason(run: Run) -> None:
    while run.should_stop() is None:
        time.sleep(0.02)


def _fill_memory(run: Run | None) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def _fail(run: Run | None) -> None:
    raise RuntimeError("something else went wrong")


ENDINGS: dict[str, Callable[[Run | None], None]] = {
    "killed": _kill, "killed after a sign of life": _kill_after_sign_of_life,
    "killed while saving": _kill_while_saving, "SIGTERM": _terminate, "stop file": _ask_to_stop,
    "budget": _spend_budget, "out of memory": _fill_memory, "error": _fail,
}  # fmt: skip
