"""Which setting is best for minutes: the laptop preset and changes to it, each after the same CPU-seconds.

Also what data do: the same setting on fewer games. Every run is measured on all validation games. One seed says little
(change accuracy varies by .04 between seeds): what looks better is run with more. Takes half an hour on two
free cores: `python -m tests.benchmarks search`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from statistics import mean
from typing import Any

from tests.benchmarks.curve import SEEDS, Point, read_defaults, train_for
from tests.benchmarks.options import Options
from tests.benchmarks.row import Row

SECONDS = 200
VARIANTS: dict[str, tuple[dict[str, Any], Sequence[int]]] = {
    "laptop preset": ({}, SEEDS[:2]),
    "lr 4e-3": ({"training.lr": 4e-3}, SEEDS[:1]),
    "lr 1.6e-2": ({"training.lr": 1.6e-2}, SEEDS[:1]),
    "width 256": ({"model.d_model": 256}, SEEDS[:1]),
    "3 layers": ({"model.n_layers": 3}, SEEDS[:1]),
    "state 32": ({"model.d_state": 32}, SEEDS[:1]),
    "8 x 64": ({"training.batch_size": 8}, SEEDS[:1]),
    "32 x 64": ({"training.batch_size": 32}, SEEDS[:1]),
    "action weight 8": ({"loss_weights.action": 8.0}, SEEDS[:1]),
}
"""What is changed, and the seeds of its runs."""
GAMES = (10, 30, 85)
SHOWN = {
    "action_ce": "action CE",
    "action_change_acc": "change accuracy",
    "action_acc": "action accuracy",
    "position_mae": "position MAE",
}


def measure(options: Options) -> list[Row]:
    """All variants, then the preset on fewer games, on as many cores as there are."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:

        def submit(changes: dict[str, Any], seed: int, games: int | None = None) -> Future[Point]:
            return pool.submit(train_for, options.blocks, read_defaults(changes), seed, SECONDS, games)

        jobs = {name: [submit(changes, seed) for seed in seeds] for name, (changes, seeds) in VARIANTS.items()}
        fewer = {f"{games} games": [submit({}, 0, games)] for games in GAMES}
        return [
            row for name, runs in (jobs | fewer).items() for row in _list_rows(name, [run.result() for run in runs])
        ]


def _list_rows(name: str, points: Sequence[Point]) -> list[Row]:
    found = []
    for key, title in SHOWN.items():
        values = [point.metrics[f"metric/{key}"] for point in points]
        found.append(
            Row(
                area=f"{title} after {SECONDS} CPU-s",
                unit=title,
                measured=name,
                value=mean(values),
                cpu_seconds=mean(point.cpu_seconds for point in points),
                note=f"{points[0].targets:,} targets; " + ", ".join(f"{value:.4f}" for value in values),
            )
        )
    return found
