"""Training on one thread, and how good the model was for how many CPU-seconds of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import override
from worldmodel.experiment.layers import load_experiment
from worldmodel.training.baselines import kinematic
from worldmodel.training.checkpoint import Checkpoint
from worldmodel.training.data import Dataset, open_dataset
from worldmodel.training.interval import Interval
from worldmodel.training.job import build_trainer
from worldmodel.training.loop import Hooks, Trainer
from worldmodel.training.validation import validate
from worldmodel.training.workers import Workers

EXPERIMENT = Path(__file__).parents[2] / "tune" / "experiments" / "1a.yaml"
"""What all settings are shown: the users' best single change."""
SEEDS = (0, 1, 2)
PROBE_STEPS = 40
CURVE_GAMES = 3
"""Validation games that the points of a curve are measured on."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """How good a model was, and what it had cost."""

    targets: int
    cpu_seconds: float
    """Of training, with feeding and features; without measuring."""
    metrics: dict[str, float]
    kinematic_position: float
    """Position MAE of the kinematic baseline on the same targets."""

    @property
    def action_ce(self) -> float:
        return self.metrics["metric/action_ce"]

    @property
    def change_accuracy(self) -> float:
        return self.metrics["metric/action_change_acc"]


def read_defaults(changes: Mapping[str, Any] | None = None) -> ExperimentConfig:
    """The laptop preset, with dotted keys that are set otherwise."""
    config = load_experiment(EXPERIMENT, "laptop")
    return override(config, changes or {})


def limit(config: ExperimentConfig, seed: int, steps: int) -> ExperimentConfig:
    """The same, ended after so many steps of one thread."""
    limits = {"seed": seed, "max_steps": steps, "num_epochs": 100, "threads": 1}
    return override(config, {f"training.{key}": value for key, value in limits.items()})


def train_for(blocks: Path, config: ExperimentConfig, seed: int, seconds: float, games: int | None = None) -> Point:
    """A run of so many CPU-seconds, measured on all validation games at its end. `games`: how many train it."""
    probe = follow(blocks, limit(config, seed, PROBE_STEPS), PROBE_STEPS)
    steps = int(seconds / probe[0].cpu_seconds * PROBE_STEPS)
    return follow(blocks, limit(config, seed, steps), steps, looks_at=None, games=games)[-1]


def follow(
    blocks: Path,
    config: ExperimentConfig,
    every: int,
    until: Callable[[Point], bool] = lambda point: False,
    looks_at: int | None = CURVE_GAMES,
    games: int | None = None,
) -> list[Point]:
    """Train on one thread, measuring every so many steps; a whole run in all else.

    Args:
        blocks: the encoded games.
        config: the experiment.
        every: steps between two points.
        until: says of a point whether it is the last.
        looks_at: validation games that a point is measured on; None: all.
        games: games to train on, the first in the data's order; None: all.
    """
    torch.set_num_threads(1)
    config = override(config, {"training.log_interval": every})
    dataset = _keep_games(open_dataset(str(blocks), config), games)
    trainer = build_trainer(dataset, config, Workers(device=torch.device("cpu")))
    stopwatch, points = _Stopwatch(), list[Point]()

    def note(interval: Interval, values: dict[str, float]) -> None:
        stopwatch.pause()
        targets = interval.step * config.training.batch_size * trainer.feed.shape.positions
        points.append(_look(trainer, targets, stopwatch.seconds, looks_at))
        stopwatch.go_on()

    def skip_validation(values: dict[str, float], checkpoint: Checkpoint) -> None:
        stopwatch.go_on()  # what came since the last interval was an epoch's own validation

    def is_over() -> str | None:
        return "measured" if points and until(points[-1]) else None

    trainer.run(Hooks(on_interval=note, on_epoch=skip_validation, stop_reason=is_over))
    return points


def _keep_games(dataset: Dataset, games: int | None) -> Dataset:
    """The same validation games, and the first so many of those to train on."""
    return replace(dataset, split=replace(dataset.split, train=dataset.split.train[:games]))


class _Stopwatch:
    """CPU-seconds of this process, with pauses."""

    def __init__(self) -> None:
        self.seconds, self._since = 0.0, time.process_time()

    def pause(self) -> None:
        self.seconds += time.process_time() - self._since

    def go_on(self) -> None:
        self._since = time.process_time()


def _look(trainer: Trainer, targets: int, seconds: float, games: int | None) -> Point:
    data, config = trainer.validation, trainer.config
    data = replace(data, games=data.games[:games])
    baselines = {"kinematic": partial(kinematic, layout=config.encoding.layout)}
    found = validate(trainer.model, data, config.loss_weights, amp=config.training.amp, baselines=baselines)
    metrics = {name: values.compute() for name, values in found.items()}
    return Point(
        targets=targets,
        cpu_seconds=seconds,
        metrics=metrics["model"],
        kinematic_position=metrics["kinematic"]["metric/position_mae"],
    )
