"""Rollouts: how long the suite that decides takes, and what a self-forcing step costs. A minute or two."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from tests.benchmarks.options import Options
from tests.benchmarks.race import Contestant, race
from tests.benchmarks.row import Goal, Row
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import override
from worldmodel.experiment.layers import load_experiment
from worldmodel.model.build import build_model
from worldmodel.rollout.loading import LoadedRun
from worldmodel.rollout.suite import MODEL, RolloutRequest, list_contestants, open_starts
from worldmodel.storage import Location
from worldmodel.training.coherence import roll_out
from worldmodel.training.data import open_dataset
from worldmodel.training.job import build_trainer
from worldmodel.training.workers import Workers

EXPERIMENT = Path(__file__).parents[2] / "tune" / "experiments" / "1a.yaml"
"""The 4.28M model."""
CPU = torch.device("cpu")
SUITES = {20: 60.0, 300: 600.0}
"""Frames of a suite of 300 starts, and the most seconds that it may take on all cores."""
LENGTHS = (3, 10)
"""Frames that the model makes alone."""


def measure(options: Options) -> list[Row]:
    """Both suites, and self-forcing steps of the laptop preset."""
    return [*(_time_suite(options, frames) for frames in SUITES), *(_weigh(options, length) for length in LENGTHS)]


def _time_suite(options: Options, frames: int) -> Row:
    """An untrained model takes as long as a trained one."""
    config = load_experiment(EXPERIMENT)
    model = build_model(config.model, config.encoding.layout).eval()
    loaded = LoadedRun(
        location=Location.of(options.scratch), checkpoint="", step=0, config=config, model=model, device=CPU
    )  # fmt: skip
    request = RolloutRequest(frames=frames)
    threads, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    wall, cpu = time.perf_counter(), time.process_time()
    data = open_starts(loaded, open_dataset(str(options.blocks), config), request)
    roll_out(list_contestants(loaded, request)[MODEL], data)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    torch.set_num_threads(threads)
    return Row(
        area=f"rollout: {len(data.samples)} starts, {frames} frames", unit="s", measured="4.28M model", value=wall,
        cpu_seconds=cpu, wall_seconds=wall, goal=Goal(of="value", most=SUITES[frames]), note=f"{cores} cores, float32",
    )  # fmt: skip


def _weigh(options: Options, length: int) -> Row:
    """A self-forcing step against an ordinary one on the same samples."""
    config = load_experiment(EXPERIMENT, "laptop")
    config = override(config, {"self_forcing.enabled": True, "self_forcing.ratio": 1})
    config = override(config, {"self_forcing.unroll_length": length, "training.threads": 1})
    found = race([_make(options, config, 0, "ordinary"), _make(options, config, 1, "alone")], options.rounds)
    pairs = list(zip(found["alone"], found["ordinary"], strict=True))
    ratios = sorted(alone.cpu_seconds / ordinary.cpu_seconds for alone, ordinary in pairs)
    return Row(
        area=f"self-forcing: {length} frames", unit="CPU-s per step", measured="self-forcing step",
        value=pairs[0][0].cpu_seconds / STEPS, against="ordinary step",
        value_against=pairs[0][1].cpu_seconds / STEPS, ratio=ratios[len(ratios) // 2],
        ratio_range=(ratios[0], ratios[-1]), cpu_seconds=pairs[0][0].cpu_seconds,
        goal=Goal(of="ratio", most=length + 0.5), note="laptop preset; how many times dearer, on the same samples",
    )  # fmt: skip


STEPS = 4
"""Of a turn."""


def _make(options: Options, config: ExperimentConfig, odd: int, name: str) -> Contestant:
    trainer = build_trainer(open_dataset(str(options.blocks), config), config, Workers(device=CPU))

    def run() -> float:
        for step in range(odd, 2 * STEPS, 2):
            trainer.learner.run(step, trainer.find_rate(step), trainer.feed.batches(step))
        return STEPS

    return Contestant(name=name, run=run)
