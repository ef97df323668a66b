"""What parts train: toy games, the baseline experiment at full or small size, and its trainer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch

from tests.gpu.check.report import SCRATCH, Failed, Report, Row
from worldmodel.experiment.config import CompileMode, ExperimentConfig
from worldmodel.experiment.config_file import override
from worldmodel.experiment.layers import load_experiment
from worldmodel.model import kernels
from worldmodel.training.data import open_dataset
from worldmodel.training.interval import Interval
from worldmodel.training.job import build_trainer
from worldmodel.training.loop import Hooks, Trainer
from worldmodel.training.workers import Workers

BASELINE = Path(__file__).parents[3] / "tune" / "experiments" / "baseline.yaml"
SMALL = {
    "model.d_model": 64, "model.d_state": 16, "model.headdim": 32, "model.n_layers": 2, "model.chunk_size": 16,
    "training.sequence_length": 16, "training.batch_size": 8, "training.threads": 1,
}  # fmt: skip
"""Sizes for a CPU."""
ALWAYS = {
    "model.dropout": 0.0,
    "tracking.wandb": "disabled",
    "training.rollout_starts": 4,
    "training.num_epochs": 10_000,
}
ENDLESS = 1 << 40


def make_blocks(report: Report) -> Path:
    """Encoded toy games, made by the first part that asks."""
    from worldmodel.blocks.encode import EncodeOptions, encode
    from worldmodel.games.toy import write_toy_games

    folder = report.folder / SCRATCH / "games"
    count, longest = (64, 1600) if report.has_gpu else (16, 500)
    if not (folder / "blocks" / "index.json").exists():
        write_toy_games(folder / "toy", count, 0, longest=longest)
        encode(str(folder / "toy"), str(folder / "blocks"), EncodeOptions(cpus=0))
    return folder / "blocks"


def configure(report: Report, **changes: Any) -> ExperimentConfig:
    """The baseline experiment with changes, whose dotted keys have "__" for a point; small on a CPU."""
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    small = {} if report.has_gpu else SMALL
    device = {"training.device": report.device.type}
    return override(load_experiment(BASELINE), {**ALWAYS, **small, **device, **dotted}, source="gpu-check")


def set_up(config: ExperimentConfig, device: torch.device, share: float = 1.0) -> None:
    """Prepare this process for a training, as the worker of a run does."""
    from worldmodel.machine.device import set_up_device
    from worldmodel.machine.gpu_memory import limit_memory
    from worldmodel.run.train_worker import prepare_kernels

    set_up_device(device, deterministic=config.training.deterministic)
    limit_memory(device, share)
    prepare_kernels(config, device)


def begin(blocks: Path, config: ExperimentConfig, device: torch.device, share: float = 1.0) -> Trainer:
    """A trainer without epochs: only its hooks end it."""
    set_up(config, device, share)
    trainer = build_trainer(open_dataset(str(blocks), config), config, Workers(device=device))
    trainer.schedule = replace(trainer.schedule, steps_per_epoch=ENDLESS)
    return trainer


def train(
    trainer: Trainer,
    steps: int,
    look: Callable[[Interval], None] = lambda interval: None,
    before: Mapping[int, Callable[[], object]] | None = None,
) -> list[str]:
    """Train to a step; returns what the run notes, such as why steps are not captured.

    `look` sees every interval; `before`: number of a step to what is called before it.
    """

    def stop() -> str | None:
        (before or {}).get(trainer.step, lambda: None)()
        return "done" if trainer.step >= steps else None

    notes: list[str] = []
    trainer.run(
        Hooks(
            on_interval=lambda interval, values: look(interval),
            stop_reason=stop,
            on_note=notes.append,
        )
    )
    return notes


def list_modes(report: Report) -> list[str]:
    """Values of `training.compile`, cheapest first; on a CPU `off` alone."""
    modes = [mode for mode in get_args(CompileMode) if mode != "auto"]
    return modes if report.has_gpu else modes[:1]


def list_backends(report: Report) -> list[str]:
    """Values of `model.backend` that run here."""
    return ["torch", "kernels"] if report.has_gpu and kernels.is_installed() else ["torch"]


def time_calls(work: Callable[[], object], device: torch.device, rounds: int = 5, calls: int = 10) -> float:
    """Milliseconds of a call: median over rounds, after two calls that compile and warm up."""
    found = []
    for count in (2, *[calls] * rounds):
        synchronize(device)
        began = time.perf_counter()
        for _ in range(count):
            work()
        synchronize(device)
        found.append(1000 * (time.perf_counter() - began) / count)
    return statistics.median(found[1:])


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def differ(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, relative to the largest expected value."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def judge(values: Row, is_right: bool, expected: str) -> Row:
    """The values; Failed where they are not right."""
    if not is_right:
        raise Failed(f"expected {expected}", values)
    return values
