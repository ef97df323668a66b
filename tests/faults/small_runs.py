"""Runs of seconds, started as people start them, at which something fails meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from worldmodel.cli.main import main
from worldmodel.errors import UserError
from worldmodel.run.record import RunRecord
from worldmodel.run.run_folder import read_record
from worldmodel.run.tracking import read_metrics
from worldmodel.storage import Location
from worldmodel.training.checkpoint import load_checkpoint
from worldmodel.training.checkpoint_list import list_checkpoints
from worldmodel.training.loop import Trainer

LONG = 500
"""Epochs of a run that is to be ended by what fails."""
WAIT_SECONDS = 90


def write_experiment(folder: Path, name: str, **training: Any) -> Path:
    """An experiment of a tiny model: 24 steps an epoch or so, each a few milliseconds."""
    values = {
        "model": {"d_model": 32, "d_state": 8, "headdim": 16, "n_layers": 1, "dropout": 0.0},
        "training": {
            "sequence_length": 64, "batch_size": 8, "num_epochs": 2, "device": "cpu", "threads": 1, "log_interval": 4,
            "amp": False, "test_split": 0.0, **training,
        },
        "tracking": {"wandb": training.pop("wandb", "disabled")},
    }  # fmt: skip
    values["training"].pop("wandb", None)  # type: ignore[attr-defined]
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return folder / f"{name}.yaml"


def ask(experiment: Path, blocks: Path, storage: str, *more: str) -> list[str]:
    """The command line that trains an experiment."""
    return ["train", str(experiment), "--data", str(blocks), "--storage", storage, *more]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run that was started here, and its end."""

    status: int
    seconds: float
    """From the fault, or the start where nothing was done, to the end."""
    run: Location

    @property
    def record(self) -> RunRecord:
        """What it says of itself."""
        return read_record(self.run)


def train(arguments: list[str], run: str, act: Callable[[RunRecord], None] | None = None, step: int = 8) -> Ended:
    """Train in this process; `act` happens, in a thread, once so many steps are on record."""
    location, began = Location.of(run), [time.monotonic()]
    thread = threading.Thread(target=lambda: act and _act_at(location, step, act, began), daemon=True)
    thread.start()
    status = main(arguments)
    ended = time.monotonic()
    thread.join(5)
    return Ended(status=status, seconds=ended - began[0], run=location)


def _act_at(run: Location, step: int, act: Callable[[RunRecord], None], began: list[float]) -> None:
    record = wait_for_step(run, step)
    began[0] = time.monotonic()
    act(record)


def wait_for_step(run: Location, step: int) -> RunRecord:
    """The record of a run as soon as it says that so many steps are done."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        try:
            record = read_record(run)
            if max([record.step, *(int(row["step"]) for row in read_metrics(run)[-1:])]) >= step:
                return record
        except UserError:
            pass
        time.sleep(0.05)
    raise TimeoutError(f"{run} did not reach step {step}")


def start(arguments: list[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """The command line in a process of its own; what it prints goes into a file."""
    with log.open("wb") as sink:
        return subprocess.Popen(
            [sys.executable, "-m", "worldmodel.cli.main", *arguments], stdout=sink, stderr=subprocess.STDOUT,
            env={**_list_environment(), "OMP_NUM_THREADS": "1", **environment},
        )  # fmt: skip


def _list_environment() -> dict[str, str]:
    """This process's, without what belongs to one machine: accounts, and clusters."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "RAY_"))}


def end_alike(first: Location, second: Location) -> bool:
    """Whether two runs ended with the same weights and optimizer, to the last bit."""
    newest = [load_checkpoint(list_checkpoints(run)[-1]) for run in (first, second)]
    return newest[0].digest == newest[1].digest and newest[0].state.step == newest[1].state.step


def are_same(first: Location, second: Location) -> bool:
    """Whether two runs also learned the same at every step."""
    rows = [[_without_time(row) for row in read_metrics(run)] for run in (first, second)]
    return end_alike(first, second) and rows[0] == rows[1]


def _without_time(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "time" and not name.startswith("speed/")}


def act_before(monkeypatch: pytest.MonkeyPatch, acts: dict[int, Callable[[], None]]) -> list[float]:
    """In runs of this process each act happens once, before the step that is its key (from 0); returns when, by then.

    Times are those of `time.monotonic`.
    """
    train_step = Trainer._train_step
    times: list[float] = []

    def step(trainer: Trainer) -> None:
        if act := acts.pop(trainer.step, None):
            act()
            times.append(time.monotonic())
        train_step(trainer)

    monkeypatch.setattr(Trainer, "_train_step", step)
    return times
