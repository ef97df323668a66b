"""Time to quality: CPU-seconds until a model predicts this well, the users' setting against ours, over several seeds.

The users' setting (windows, their initialisation, loss and learning rate) trains on our step, because only the order of
its targets matters, and is charged what its targets cost on the reference step. Both are measured on the same frames
of the same validation games. Takes the better part of an hour: `python -m tests.benchmarks quality`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import mean

import torch

from tests.benchmarks import reference
from tests.benchmarks.curve import CURVE_GAMES, EXPERIMENT, SEEDS, Point, follow, limit, read_defaults, train_for
from tests.benchmarks.options import Options
from tests.benchmarks.row import Goal, Row
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import override, to_yaml
from worldmodel.experiment.layers import load_experiment
from worldmodel.training.data import open_dataset
from worldmodel.training.validation import METRIC_VERSION

LADDER = (64, 96, 128, 192, 256, 384, 512)
"""Steps of our short runs: each is a whole run with its own schedule, as a person in a hurry would start it."""
LONG_SECONDS = 400
"""CPU-seconds of our long run."""
USERS_EVERY, USERS_MOST = 50, 1000
"""Steps of 512 windows between two looks at the users' setting, and after how many it is given up."""
KEPT = Path(__file__).parents[2] / ".benchmarks"
"""Where the users' curves are kept; without it they are measured anew."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A quality to be reached."""

    name: str
    is_reached: Callable[[Point], bool]


MARKS = (
    Mark(name="action CE ≤ .4", is_reached=lambda point: point.action_ce <= 0.4),
    Mark(name="change accuracy ≥ .47", is_reached=lambda point: point.change_accuracy >= 0.47),
)
"""Beyond what a table of action pairs reaches: .419 and .453."""


def measure(options: Options) -> list[Row]:
    """All seeds of both settings, on as many cores as there are."""
    price = 1 / reference.measure_rate()
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        users = [pool.submit(follow_users, options.blocks, seed) for seed in SEEDS]
        short = [pool.submit(climb, options.blocks, seed) for seed in SEEDS]
        long = [pool.submit(train_for, options.blocks, read_defaults(), seed, LONG_SECONDS) for seed in SEEDS]
        curves = [future.result() for future in users], [future.result() for future in short]
        last = [future.result() for future in long]
    return [_compare(mark, *curves, price) for mark in MARKS] + _judge(last)


def follow_users(blocks: Path, seed: int) -> list[Point]:
    """The users' setting, until all marks are reached or it is given up.

    Of its points only targets and metrics count, which no clock touches: a curve is kept, and measured once.
    """
    config = load_experiment(EXPERIMENT, "round1")
    changes = {"training.amp": True, "data.split": "md5", "training.schedule": "constant"}
    config = limit(override(config, changes), seed, USERS_MOST)
    kept = KEPT / f"users-{_name_curve(blocks, config)}.json"
    if kept.exists():
        return [Point(**values) for values in json.loads(kept.read_text())]
    points = follow(blocks, config, USERS_EVERY, until=_has_all_marks)
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(json.dumps([asdict(point) for point in points]))
    return points


def _name_curve(blocks: Path, config: ExperimentConfig) -> str:
    """16 hex digits of all that the users' curve depends on, but for the code."""
    parts = [to_yaml(config), open_dataset(str(blocks), config).fingerprint, torch.__version__, METRIC_VERSION]
    return hashlib.sha256(repr([*parts, USERS_EVERY, CURVE_GAMES]).encode()).hexdigest()[:16]


def climb(blocks: Path, seed: int) -> list[Point]:
    """Our short runs, from the shortest on, until all marks are reached; one point for each, at its end."""
    found: list[Point] = []
    for steps in LADDER:
        found += follow(blocks, limit(read_defaults(), seed, steps), steps)
        if _has_all_marks(found[-1]):
            break
    return found


def _has_all_marks(point: Point) -> bool:
    return all(mark.is_reached(point) for mark in MARKS)


def _compare(mark: Mark, users: Sequence[list[Point]], ours: Sequence[list[Point]], price: float) -> Row:
    """CPU-seconds of ours until a mark against what the users' targets until it cost, each at its first such point."""
    mine = [point.cpu_seconds if (point := _find(mark, points)) else math.inf for points in ours]
    theirs = [price * (_find(mark, points) or points[-1]).targets for points in users]  # given up: they need more
    ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
    return Row(
        area=f"time to {mark.name}",
        unit="CPU-s",
        measured="laptop preset",
        value=mean(mine),
        against="users' setting",
        value_against=mean(theirs),
        ratio=mean(ratios),
        ratio_range=(min(ratios), max(ratios)),
        cpu_seconds=mean(mine),
        goal=Goal(of="ratio", least=50),
        note=f"ratio: how many times fewer; the reference step takes {1e3 * price:.1f} ms of CPU per target",
    )


def _find(mark: Mark, points: Sequence[Point]) -> Point | None:
    """Where a mark was reached first."""
    return next((point for point in points if mark.is_reached(point)), None)


def _judge(points: Sequence[Point]) -> list[Row]:
    """The long runs against the goals."""
    goals = {
        "metric/action_change_acc": Goal(of="value", least=0.5),
        "metric/action_acc": Goal(of="value", least=0.945),
        "metric/action_ce": Goal(of="value", most=0.24),
        "metric/position_mae": Goal(of="ratio", most=1),
    }
    spent = mean(point.cpu_seconds for point in points)
    rows = []
    for name, goal in goals.items():
        values = [point.metrics[name] for point in points]
        base = mean(point.kinematic_position for point in points) if goal.of == "ratio" else None
        rows.append(
            Row(
                area=f"after {LONG_SECONDS} CPU-s",
                unit=name,
                measured="laptop preset",
                value=mean(values),
                against="kinematic" if base else None,
                value_against=base,
                ratio=mean(values) / base if base else None,
                cpu_seconds=spent,
                goal=goal,
                note=f"{name} of seeds {SEEDS}: " + ", ".join(f"{value:.3f}" for value in values),
            )
        )
    return rows
