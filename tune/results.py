"""What a grid found: one row per experiment, with its spread over seeds, told apart wherever rows do not compare."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from tune.grid import Trial
from worldmodel.errors import UserError
from worldmodel.object_store import MissingError
from worldmodel.rollout.evaluation import EVALUATION
from worldmodel.storage import Location
from worldmodel.training.record import RunRecord, State
from worldmodel.training.run_folder import read_record

CONFIDENCE = 0.95
METRICS = ("metric/position_mae", "metric/action_acc", "metric/action_change_acc", "metric/action_change_acc_both",
           "metric/action_change_acc_previous", "metric/action_ce", "loss/total")  # fmt: skip
"""Metrics that have statistics; the first are the published ones."""
BASELINE = "baseline"


@dataclass(frozen=True, kw_only=True)
class Published:
    """A row of the users' Round 1 table: one run, no seeds, 2,000 games."""

    action_acc: float
    action_change_acc: float
    position_mae: float
    """Melee units."""
    epochs: int = 2


PUBLISHED = {
    "baseline": Published(action_acc=0.964, action_change_acc=0.645, position_mae=0.79),
    "1a": Published(action_acc=0.970, action_change_acc=0.717, position_mae=0.75),
    "2a": Published(action_acc=0.963, action_change_acc=0.653, position_mae=0.78),
    "3a": Published(action_acc=0.943, action_change_acc=0.708, position_mae=0.74),
    "1a-2a": Published(action_acc=0.967, action_change_acc=0.701, position_mae=0.75),
    "3a-1a": Published(action_acc=0.951, action_change_acc=0.737, position_mae=0.73),
    "3a-1a-2a": Published(action_acc=0.938, action_change_acc=0.670, position_mae=0.92, epochs=1),
}


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """One trial, however it ended."""

    name: str
    experiment: str
    seed: int
    record: RunRecord | None
    evaluation: dict[str, Any] | None
    """`evaluation.json`; None where the trial was not evaluated."""
    error: str = ""
    """What ended it, where its run folder may not say so."""

    @property
    def is_finished(self) -> bool:
        """Trained to its last step, and evaluated there: an evaluation of an earlier step is none of this trial."""
        if self.error or self.record is None or self.evaluation is None:
            return False
        return self.record.state is State.FINISHED and self.evaluation["step"] == self.record.step

    @property
    def failure(self) -> str:
        """Why it is not finished; empty where it is."""
        if self.is_finished:
            return ""
        if self.record is None:
            return self.error or "not started"
        if self.record.state is State.FINISHED:
            return f"not evaluated: {self.error}" if self.error else "not evaluated"
        return f"{self.record.state.value}: {self.record.reason or self.error or 'not finished'}"


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """A metric over seeds."""

    mean: float
    spread: float | None
    """Standard deviation over seeds; None with one seed."""
    half_width: float | None
    """Half the width of the 95 % confidence interval of the mean (Student's t); None with one seed."""
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Statistic:
        """Over one value per seed."""
        with np.errstate(invalid="ignore"):  # a diverged seed makes the mean nan, not the report fail
            n, mean = len(values), float(np.mean(values))
            if n < 2:
                return cls(mean=mean, spread=None, half_width=None, n=n)
            spread = float(np.std(values, ddof=1))
        half = float(student.ppf((1 + CONFIDENCE) / 2, n - 1)) * spread / math.sqrt(n)
        return cls(mean=mean, spread=spread, half_width=half, n=n)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One experiment."""

    experiment: str
    horizon: int
    """Frames ahead; rows of different horizons are different tasks."""
    metrics: dict[str, Statistic]
    difference: dict[str, Statistic]
    """To the baseline experiment, paired by seed; empty for itself and for other horizons."""
    seconds: float
    """Mean wall-clock seconds of a trial."""
    cost_usd: float | None
    trials: int
    failures: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows that may be compared: same games, split, metric version and horizon."""

    horizon: int
    fingerprint: str
    metric_version: int
    rows: list[Row]
    references: dict[str, dict[str, float]]
    """Rows that need no training: "persistence", "kinematic", "most frequent next action"."""


def read_trial(folder: Location, trial: Trial, error: str = "") -> TrialResult:
    """What a trial's run folder says; `error`: what its own process says of how it ended."""
    location, record, evaluation = folder / trial.name, None, None
    try:
        record = read_record(location)
        evaluation = json.loads((location / EVALUATION).read_text())
    except MissingError:  # not that far
        pass
    except (UserError, ValueError) as unreadable:  # one folder must not cost the table
        error = error or str(unreadable)
    return TrialResult(
        name=trial.name, experiment=trial.experiment, seed=trial.seed, record=record, evaluation=evaluation,
        error=error,
    )  # fmt: skip


def make_tables(trials: Sequence[TrialResult]) -> list[Table]:
    """Tables of comparable rows, one-step first; trials that did not finish count only as failures."""
    groups: dict[tuple[int, str, int], list[TrialResult]] = {}
    for trial in trials:
        if trial.is_finished and trial.evaluation:
            found = trial.evaluation
            key = (found["horizon"], found["data_fingerprint"], found["metric_version"])
            groups.setdefault(key, []).append(trial)
    return [_make_table(key, group, trials) for key, group in sorted(groups.items())]


def _make_table(key: tuple[int, str, int], group: list[TrialResult], everything: Sequence[TrialResult]) -> Table:
    names = list(dict.fromkeys(trial.experiment for trial in everything))
    rows = [_make_row(name, group, everything) for name in names if any(t.experiment == name for t in group)]
    first = group[0].evaluation or {}
    references = {name: values for name, values in first["rows"].items() if name != "model"}
    return Table(horizon=key[0], fingerprint=key[1], metric_version=key[2], rows=rows, references=references)


def _make_row(name: str, group: list[TrialResult], everything: Sequence[TrialResult]) -> Row:
    own = [trial for trial in group if trial.experiment == name]
    base = {trial.seed: trial for trial in group if trial.experiment == BASELINE}
    paired = [(trial, base[trial.seed]) for trial in own if trial.seed in base and name != BASELINE]
    metrics = [metric for metric in METRICS if all(metric in _values(trial) for trial in own)]
    shared = [metric for metric in metrics if paired and all(metric in _values(other) for _, other in paired)]
    records = [trial.record for trial in own if trial.record]
    costs = [record.cost_usd for record in records if record.cost_usd is not None]
    return Row(
        experiment=name,
        horizon=(own[0].evaluation or {})["horizon"],
        metrics={metric: Statistic.of([_values(trial)[metric] for trial in own]) for metric in metrics},
        difference={
            metric: Statistic.of([_values(a)[metric] - _values(b)[metric] for a, b in paired]) for metric in shared
        },
        seconds=statistics.fmean(record.seconds.total for record in records),
        cost_usd=statistics.fmean(costs) if costs else None,
        trials=len(own),
        failures=tuple(t.failure for t in everything if t.experiment == name and not t.is_finished),
    )


def _values(trial: TrialResult) -> dict[str, float]:
    found: dict[str, float] = (trial.evaluation or {})["rows"]["model"]
    return found
