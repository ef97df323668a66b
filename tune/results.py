"""What a grid found: one row per experiment, with its spread over seeds, told apart wherever rows do not compare.

Trials that a scheduler ended early stand in tables of their own, one row each: how far each came differs.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from tune.grid import Trial
from tune.record import TrialName
from worldmodel.errors import UserError
from worldmodel.object_store import MissingError
from worldmodel.rollout.evaluation import EVALUATION
from worldmodel.run.record import RunRecord, State
from worldmodel.run.run_folder import read_record
from worldmodel.storage import Location

CONFIDENCE = 0.95
METRICS = ("metric/position_mae", "metric/action_acc", "metric/action_change_acc", "metric/action_change_acc_both",
           "metric/action_change_acc_previous", "metric/action_ce", "loss/total")  # fmt: skip
"""Metrics that have statistics; the first are the published ones."""
BASELINE = "baseline"
TRIAL_EVALUATION = "trial_evaluation.json"
"""A trial's own evaluation, which its grid's tables hold. `evaluation.json` is the last one that somebody asked for,
maybe of another checkpoint or other games."""
NEEDED = {"step", "horizon", "data_fingerprint", "metric_version", "rows"}
"""Keys without which an `evaluation.json` says nothing."""
HURDLES = {
    "metric/position_mae": ("position MAE", "persistence", -1),
    "metric/action_change_acc": ("change accuracy", "most frequent next action", 1),
}
"""Metric to its name, the row without training that any trained one must beat, and the sign of "better"."""
Key = tuple[bool, int, str, int, str, int]
"""What rows of a table share: stopped early or not, horizon, data, metric version, target set, target frames."""


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
    """What it was found to be; None where it was not evaluated."""
    error: str = ""
    """What ended it, where its run folder may not say so."""

    @property
    def is_finished(self) -> bool:
        """Trained to its last step, and evaluated there: an evaluation of an earlier step is none of this trial."""
        has_ended = self.record is not None and self.record.state is State.FINISHED
        return self._is_evaluated and has_ended and not self._is_early

    @property
    def is_stopped_early(self) -> bool:
        """Ended by a scheduler because others promised more, and evaluated where it stood: comparable with nothing."""
        return self._is_evaluated and self._is_early

    @property
    def values(self) -> dict[str, float]:
        """What its evaluation measured; empty where it counts in no table."""
        if self.evaluation is None or not (self.is_finished or self.is_stopped_early):
            return {}
        found: dict[str, float] = self.evaluation["rows"]["model"]
        return found

    @property
    def failure(self) -> str:
        """Why it counts in no table; empty where it does."""
        if self.is_finished or self.is_stopped_early:
            return ""
        if self.record is None:
            return self.error or "not started"
        if self.record.state is State.FINISHED or self._is_early:
            stopped = "stopped early by the scheduler, " if self._is_early else ""
            return f"{stopped}not evaluated: {self.error}" if self.error else f"{stopped}not evaluated"
        return f"{self.record.state.value}: {self.record.reason or self.error or 'not finished'}"

    @property
    def _is_evaluated(self) -> bool:
        if self.error or self.record is None or self.evaluation is None:
            return False
        return bool(self.evaluation["step"] == self.record.step)

    @property
    def _is_early(self) -> bool:
        return self.record is not None and self.record.early_stopped


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
    """One experiment; in a table of trials that were stopped early, one trial."""

    experiment: str
    names: tuple[str, ...]
    """The trials behind it."""
    horizon: int
    """Frames ahead; rows of different horizons are different tasks."""
    steps: int
    """Optimizer steps of its longest trial."""
    metrics: dict[str, Statistic]
    difference: dict[str, Statistic]
    """To the baseline experiment, paired by seed; empty for itself and for other horizons."""
    seconds: float
    """Mean wall-clock seconds of a trial."""
    cost_usd: float | None
    """Mean dollars of a trial; None: unknown for one of them."""
    trials: int
    failures: tuple[str, ...]
    validated: str = ""
    """As `RunRecord.validated`; the metrics here use all games."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows that may be compared: same games, split, metric version, horizon, target set and target frames."""

    horizon: int
    fingerprint: str
    metric_version: int
    encoding_targets: str
    """`encoding.targets` of its trials."""
    target_frames: int
    """Frames that every row was measured on; 0: not said."""
    stopped_early: bool
    """Whether a scheduler ended these trials: they had unlike times to learn, so nothing is averaged or subtracted."""
    rows: list[Row]
    references: dict[str, dict[str, float]]
    """Rows that need no training: "persistence", "kinematic", "most frequent next action"."""
    shortfalls: list[str]
    """Rows that do not beat what needs no training, in words; empty: all do, or were stopped early."""

    @property
    def key(self) -> Key:
        """What its rows share."""
        return (
            self.stopped_early, self.horizon, self.fingerprint, self.metric_version, self.encoding_targets,
            self.target_frames,
        )  # fmt: skip


def read_trial(folder: Location, trial: Trial | TrialName, error: str = "") -> TrialResult:
    """What a trial's run folder says; `error`: what its own process says of how it ended."""
    location, record, evaluation = folder / trial.name, None, None
    try:
        record = read_record(location)
        own = location / TRIAL_EVALUATION
        evaluation = _read_evaluation(own if own.exists() else location / EVALUATION)
    except MissingError:  # not that far
        pass
    except (UserError, ValueError) as unreadable:  # one folder must not cost the table
        error = error or str(unreadable)
    return TrialResult(
        name=trial.name, experiment=trial.experiment, seed=trial.seed, record=record, evaluation=evaluation,
        error=error,
    )  # fmt: skip


def _read_evaluation(file: Location) -> dict[str, Any]:
    found = json.loads(file.read_text())
    is_whole = isinstance(found, dict) and found.keys() >= NEEDED and isinstance(found["rows"], dict)
    if not is_whole or not isinstance(found["rows"].get("model"), dict):
        raise UserError(f"{file} cannot be understood: expected {', '.join(sorted(NEEDED))}; evaluate the run again")
    return dict(found)


def make_tables(trials: Sequence[TrialResult]) -> list[Table]:
    """Tables of comparable rows: full trials before those stopped early, one step ahead first.

    Trials that failed count only as failures.
    """
    groups: dict[Key, list[TrialResult]] = {}
    for trial in trials:
        if (trial.is_finished or trial.is_stopped_early) and trial.evaluation:
            groups.setdefault(key_of(trial.evaluation, trial.is_stopped_early), []).append(trial)
    return [_make_table(key, group, trials) for key, group in sorted(groups.items())]


def key_of(evaluation: Mapping[str, Any], is_stopped_early: bool = False) -> Key:
    """What an evaluation may be compared by. Other target frames (another context, say) are another measurement."""
    return (
        is_stopped_early, evaluation["horizon"], evaluation["data_fingerprint"], evaluation["metric_version"],
        evaluation.get("encoding_targets", "all"), evaluation.get("targets", 0),
    )  # fmt: skip


def references_of(evaluation: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The rows of an evaluation that need no training."""
    return {name: values for name, values in evaluation["rows"].items() if name != "model"}


def _make_table(key: Key, group: list[TrialResult], everything: Sequence[TrialResult]) -> Table:
    is_early, horizon, fingerprint, version, targets, frames = key
    names = list(dict.fromkeys(trial.experiment for trial in everything))
    if is_early:
        ranked = sorted(group, key=lambda trial: names.index(trial.experiment))
        rows = [_make_row(trial.experiment, [trial], ()) for trial in ranked]
    else:
        rows = [_make_row(name, group, everything) for name in names if any(t.experiment == name for t in group)]
    references = references_of(group[0].evaluation or {})
    return Table(
        horizon=horizon, fingerprint=fingerprint, metric_version=version, encoding_targets=targets,
        target_frames=frames, stopped_early=is_early, rows=rows, references=references,
        shortfalls=[] if is_early else [text for row in rows for text in _find_shortfalls(row, references)],
    )  # fmt: skip


def _make_row(name: str, group: list[TrialResult], everything: Sequence[TrialResult]) -> Row:
    own = [trial for trial in group if trial.experiment == name]
    metrics = [metric for metric in METRICS if all(metric in trial.values for trial in own)]
    records = [trial.record for trial in own if trial.record]
    return Row(
        experiment=name, names=tuple(trial.name for trial in own), horizon=(own[0].evaluation or {})["horizon"],
        steps=max(record.step for record in records),
        metrics={metric: Statistic.of([trial.values[metric] for trial in own]) for metric in metrics},
        difference=_compare(name, own, group),
        seconds=statistics.fmean(record.seconds.total for record in records),
        cost_usd=_average([record.cost_usd for record in records]), trials=len(own),
        failures=tuple(t.failure for t in everything if t.experiment == name and t.failure),
        validated="; ".join(dict.fromkeys(record.validated for record in records if record.validated)),
    )  # fmt: skip


def _compare(name: str, own: list[TrialResult], group: list[TrialResult]) -> dict[str, Statistic]:
    """Differences to the baseline trials of the same seeds."""
    base = {trial.seed: trial for trial in group if trial.experiment == BASELINE}
    pairs = [(trial, base[trial.seed]) for trial in own if trial.seed in base and name != BASELINE]
    shared = [m for m in METRICS if pairs and all(m in one.values for pair in pairs for one in pair)]
    return {metric: Statistic.of([a.values[metric] - b.values[metric] for a, b in pairs]) for metric in shared}


def _average(costs: Sequence[float | None]) -> float | None:
    known = [cost for cost in costs if cost is not None]
    return statistics.fmean(known) if known and len(known) == len(costs) else None


def _find_shortfalls(row: Row, references: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """What a row's means do not beat; a mean that is nan beats nothing."""
    for metric, (words, name, sign) in HURDLES.items():
        hurdle = references.get(name, {}).get(metric)
        if metric in row.metrics and hurdle is not None and not sign * (row.metrics[metric].mean - hurdle) > 0:
            side = "above" if sign > 0 else "below"
            yield f"{row.experiment}: {words} {row.metrics[metric].mean:.3f} is not {side} {name}'s {hurdle:.3f}"
