"""Results of trials that never ran: what tables, reports and their files are checked on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from tune.record import GridRecord, TrialName, write_grid
from tune.results import METRICS, TrialResult
from tune.variants import Trial
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.run.record import RunRecord, Seconds, State
from worldmodel.run.run import EVALUATION, RECORD
from worldmodel.storage import Location

REFERENCES = ("persistence", "kinematic", "most frequent next action")


def make_evaluation(values: dict[str, float], **changes: Any) -> dict[str, Any]:
    """What `evaluation.json` holds, under the model's metrics."""
    rows = {"model": values, **{name: dict.fromkeys(METRICS, 0.5) for name in REFERENCES}}
    facts = {"step": 10, "horizon": 1, "data_fingerprint": "f" * 16, "metric_version": 1}
    return {**facts, "encoding_targets": "all", "games": 4, "targets": 900, "rows": rows, **changes}


def add_games(result: TrialResult, values: dict[str, np.ndarray], part: str = "validation") -> TrialResult:
    """With values by game of one metric for each row ("model" and references), as `evaluate` keeps them."""
    assert result.evaluation is not None
    home = result.evaluation if part == "validation" else result.evaluation.setdefault(part, {"rows": {}})
    games = len(next(iter(values.values()))[0])
    home |= {"games": games, "game_names": [f"{n:032x}" for n in range(games)]}
    for name, pairs in values.items():
        row, _, metric = name.partition(":")
        home.setdefault("by_game", {}).setdefault(row, {})[metric] = pairs.tolist()
        home["rows"].setdefault(row, {})[metric] = float(pairs[0].sum() / pairs[1].sum())
    return result


def make_result(experiment: str, seed: int, value: float = 0.25, **changes: Any) -> TrialResult:
    """A finished trial with `value` for every metric; `changes` are of its evaluation."""
    return TrialResult(
        name=f"{experiment}-seed{seed}", experiment=experiment, seed=seed, record=make_record(experiment, seed),
        evaluation=make_evaluation(dict.fromkeys(METRICS, value), **changes),
    )  # fmt: skip


def make_record(experiment: str, seed: int, **changes: Any) -> RunRecord:
    """The record of a trial that finished after ten steps and a minute, at 6 dollars an hour."""
    facts = {"state": State.FINISHED, "step": 10, "seconds": Seconds(total=60.0), "price_per_hour_usd": 6.0}
    return RunRecord(name=f"{experiment}-seed{seed}", **{"commit": None, "command": "", **facts, **changes})


def make_early(experiment: str, seed: int, value: float = 0.25, step: int = 4, **changes: Any) -> TrialResult:
    """A trial that a scheduler stopped after `step` of ten steps, and that was evaluated there."""
    record = make_record(
        experiment, seed, state=State.STOPPED, early_stopped=True, step=step, total_steps=10, reason="stopped early"
    )
    return TrialResult(
        name=record.name, experiment=experiment, seed=seed, record=record,
        evaluation=make_evaluation(dict.fromkeys(METRICS, value), step=step, **changes),
    )  # fmt: skip


def write_grid_of(folder: Location, trials: Sequence[TrialResult], **facts: Any) -> GridRecord:
    """The folder of a grid that ended with these trials."""
    names = [TrialName(name=t.name, experiment=t.experiment, seed=t.seed) for t in trials]
    given: dict[str, Any] = {"state": State.FINISHED, "commit": None, "command": "tune/round1.py", **facts}
    grid = GridRecord(name=folder.name, trials=names, **given)
    write_grid(folder, grid)
    for trial in trials:
        if trial.record is not None:
            (folder / trial.name / RECORD).write_text(trial.record.model_dump_json())
        if trial.evaluation is not None:
            (folder / trial.name / EVALUATION).write_text(json.dumps(trial.evaluation))
    return grid


def make_failure(experiment: str, seed: int, reason: str) -> TrialResult:
    """A trial that an error ended."""
    record = make_record(experiment, seed, state=State.FAILED, reason=reason)
    return TrialResult(
        name=f"{experiment}-seed{seed}", experiment=experiment, seed=seed, record=record, evaluation=None
    )


def make_trial(experiment: str = "baseline", seed: int = 0) -> Trial:
    """A trial of a grid."""
    return Trial(experiment=experiment, seed=seed, config=ExperimentConfig(name=f"{experiment}-seed{seed}"))
