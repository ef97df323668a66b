"""What self-forcing is worth: rollouts of the laptop preset after the same CPU-seconds with and without, three seeds.

Takes about 2 x 3 x 400 CPU-seconds: `python -m tests.benchmarks coherence`. The kinematic baseline is rolled from the
same 300 starts.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from tests.benchmarks.options import Options
from tests.benchmarks.rollout import CPU, EXPERIMENT
from tests.benchmarks.row import Goal, Row
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import override
from worldmodel.experiment.layers import load_experiment
from worldmodel.rollout.loading import LoadedRun
from worldmodel.rollout.suite import RolloutRequest, list_contestants, open_starts
from worldmodel.storage import Location
from worldmodel.training.coherence import COHERENCE, roll_out
from worldmodel.training.data import open_dataset
from worldmodel.training.job import build_trainer
from worldmodel.training.loop import Hooks, Trainer
from worldmodel.training.workers import Workers

SECONDS = 400
SEEDS = (0, 1, 2)
SETTINGS: dict[str, dict[str, Any]] = {
    "ordinary": {},
    "self-forcing": {"self_forcing.enabled": True, "self_forcing.curriculum": (1, 2, 5, 10)},
}
PROBE_STEPS = 60
SHOWN = ("pos_mae_k20", "pos_mae_k5", "action_acc_k20", "possible_k20")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A run's rollouts at its end, and those of the baseline."""

    cpu_seconds: float
    steps: int
    model: dict[str, float]
    kinematic: dict[str, float]


def measure(options: Options) -> list[Row]:
    """All seeds of both settings, on as many cores as there are."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        jobs = {name: [pool.submit(train, options.blocks, name, seed) for seed in SEEDS] for name in SETTINGS}
        found = {name: [job.result() for job in some] for name, some in jobs.items()}
    return [_judge(name, outcomes, metric) for name, outcomes in found.items() for metric in SHOWN]


def train(blocks: Path, name: str, seed: int, seconds: float = SECONDS) -> Outcome:
    """A whole run of so many CPU-seconds of training on one thread, and its rollouts."""
    torch.set_num_threads(1)
    config = load_experiment(EXPERIMENT, "laptop")
    limits = {"training.seed": seed, "training.num_epochs": 100, "training.rollout_starts": 0}
    config = override(config, {**limits, **SETTINGS[name], "training.log_interval": 10**9})
    _, cost = _run(blocks, override(config, {"training.max_steps": PROBE_STEPS, **_longest(config)}))
    steps = int(seconds / cost * PROBE_STEPS)
    trainer, spent = _run(blocks, override(config, {"training.max_steps": steps}))
    rows = _roll(trainer, blocks)
    return Outcome(cpu_seconds=spent, steps=steps, model=rows["model"], kinematic=rows["kinematic"])


def _longest(config: ExperimentConfig) -> dict[str, Any]:
    """A probe is of all lengths that a run goes through: their mean, as all epochs are as long."""
    lengths = config.self_forcing.curriculum
    return {} if lengths is None else {"self_forcing.curriculum": (round(mean(lengths)),)}


def _run(blocks: Path, config: ExperimentConfig) -> tuple[Trainer, float]:
    trainer = build_trainer(open_dataset(str(blocks), config), config, Workers(device=CPU))
    began = time.process_time()
    validated = 0.0
    end_epoch = trainer._end_epoch

    def measure_end(hooks: Hooks) -> None:
        nonlocal validated
        before = time.process_time()
        end_epoch(hooks)
        validated += time.process_time() - before

    trainer._end_epoch = measure_end  # type: ignore[method-assign]
    trainer.run(Hooks())
    return trainer, time.process_time() - began - validated


def _roll(trainer: Trainer, blocks: Path) -> dict[str, dict[str, float]]:
    request = RolloutRequest(frames=COHERENCE)
    loaded = LoadedRun(
        location=Location.of("."), checkpoint="", step=trainer.step, config=trainer.config,
        model=trainer.model.eval(), device=CPU,
    )  # fmt: skip
    data = open_starts(loaded, open_dataset(str(blocks), trainer.config), request)
    return {name: roll_out(one, data).compute() for name, one in list_contestants(loaded, request).items()}


def _judge(name: str, outcomes: list[Outcome], metric: str) -> Row:
    key = f"eval/summary_{metric}"
    values, base = [outcome.model[key] for outcome in outcomes], outcomes[0].kinematic[key]
    return Row(
        area=f"rollouts after {SECONDS} CPU-s: {name}", unit=metric, measured="laptop preset", value=mean(values),
        against="kinematic", value_against=base, ratio=mean(values) / base if base else None,
        cpu_seconds=mean(outcome.cpu_seconds for outcome in outcomes),
        goal=Goal(of="ratio", most=1) if metric == "pos_mae_k20" else None,
        note=f"seeds {SEEDS}: " + ", ".join(f"{value:.3f}" for value in values),
    )  # fmt: skip
