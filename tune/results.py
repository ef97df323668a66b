"""What a grid found: one row per experiment, with its spread over seeds, told apart wherever rows do not compare.

Trials that a scheduler ended early stand in tables of their own, one row each: how far each came differs.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tune.trial_result import TEST, VALIDATION, compare, compare_with, measure
from tune.trial_result import TRIAL_EVALUATION as TRIAL_EVALUATION
from tune.trial_result import TrialResult as TrialResult
from tune.trial_result import read_trial as read_trial
from worldmodel.statistics import CONFIDENCE as CONFIDENCE
from worldmodel.statistics import Statistic as Statistic
from worldmodel.statistics import correct
from worldmodel.training.game_sums import NO_TELEPORTS

METRICS = (
    "metric/position_mae", NO_TELEPORTS, "metric/action_acc", "metric/action_change_acc",
    "metric/action_change_acc_both", "metric/action_change_acc_previous", "metric/action_ce", "loss/total",
)  # fmt: skip
"""Metrics that have statistics."""
BASELINE = "baseline"
SELECTED = "selected by the scheduler"
HURDLES = {
    "metric/position_mae": ("position MAE", "kinematic", -1),
    "metric/action_change_acc_both": ("change accuracy", "most frequent next action", 1),
}
"""Metric to its name, the row without training that any trained one must beat, and the sign of "better". These are a
grid's questions too: in each of them, does an experiment differ from the table's first?"""
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
    """To `Table.compared_to`, paired by seed and game; empty for itself and where trials were selected."""
    bars: dict[str, Statistic]
    """Metric of `HURDLES` to its difference from the row that it must beat."""
    test: dict[str, Statistic]
    """As `metrics`, on the test games."""
    test_difference: dict[str, Statistic]
    """As `difference`, on the test games."""
    goal: str
    remarks: tuple[str, ...]
    """Facts that forbid a verdict on it, in words."""
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
    compared_to: str
    """Experiment that the others are compared with: the baseline, or the first; empty: none."""
    references: dict[str, dict[str, float]]
    """Rows that need no training: "persistence", "kinematic", "most frequent next action"."""
    shortfalls: list[str]
    """Rows whose 95 % interval does not clear what needs no training, in words; empty: all do, or stopped early."""

    @property
    def key(self) -> Key:
        """What its rows share."""
        return (
            self.stopped_early, self.horizon, self.fingerprint, self.metric_version, self.encoding_targets,
            self.target_frames,
        )  # fmt: skip


def make_tables(trials: Sequence[TrialResult]) -> list[Table]:
    """Tables of comparable rows: full trials before those stopped early, one step ahead first.

    Trials that failed count only as failures.
    """
    groups: dict[Key, list[TrialResult]] = {}
    for trial in trials:
        if (trial.is_finished or trial.is_stopped_early) and trial.evaluation:
            groups.setdefault(key_of(trial.evaluation, trial.is_stopped_early), []).append(trial)
    return _correct([_make_table(key, group, trials) for key, group in sorted(groups.items())])


def _correct(tables: list[Table]) -> list[Table]:
    """With Holm's p-values over all questions of the grid."""
    places = [(row.difference, metric) for table in tables for row in table.rows for metric in HURDLES]
    places = [(found, metric) for found, metric in places if metric in found and found[metric].p is not None]
    for (found, metric), p in zip(places, correct([found[m].p or 0.0 for found, m in places]), strict=True):
        found[metric] = replace(found[metric], adjusted=p, questions=len(places))
    return tables


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
    names = [name for name in names if any(trial.experiment == name for trial in group)]
    references, first = references_of(group[0].evaluation or {}), BASELINE if BASELINE in names else names[0]
    if is_early:
        ranked = sorted(group, key=lambda trial: names.index(trial.experiment))
        rows = [_make_row(trial.experiment, [trial], [], ()) for trial in ranked]
    else:
        base = [trial for trial in group if trial.experiment == first]
        own = {name: [trial for trial in group if trial.experiment == name] for name in names}
        rows = [_make_row(name, own[name], base if name != first else [], everything) for name in names]
    return Table(
        horizon=horizon, fingerprint=fingerprint, metric_version=version, encoding_targets=targets,
        target_frames=frames, stopped_early=is_early, rows=rows, references=references,
        compared_to="" if is_early or len(rows) < 2 else first,
        shortfalls=[] if is_early else [text for row in rows for text in _find_shortfalls(row, references)],
    )  # fmt: skip


def _make_row(name: str, own: list[TrialResult], base: list[TrialResult], everything: Sequence[TrialResult]) -> Row:
    by_seed, records = {t.seed: t for t in base}, [trial.record for trial in own if trial.record]
    pairs = [(trial, by_seed[trial.seed]) for trial in own if trial.seed in by_seed]
    remarks = tuple(_find_remarks(own, base, everything)) if everything else ()
    is_selected = any(SELECTED in remark for remark in remarks)
    differences = [
        {} if is_selected or not pairs else _keep({metric: compare(pairs, metric, part) for metric in METRICS})
        for part in (VALIDATION, TEST)
    ]
    if remarks:  # no verdict
        differences = [{m: replace(d, p=None) for m, d in found.items()} for found in differences]
    bars = {metric: compare_with(own, reference, metric) for metric, (_, reference, _) in HURDLES.items()}
    return Row(
        experiment=name, names=tuple(trial.name for trial in own), horizon=(own[0].evaluation or {})["horizon"],
        steps=max(record.step for record in records),
        metrics=_keep({metric: measure(own, metric) for metric in METRICS}),
        test=_keep({metric: measure(own, metric, TEST) for metric in METRICS}),
        difference=differences[0], test_difference=differences[1], bars=_keep(bars),
        goal=next((record.goal for record in records if record.goal), ""), remarks=remarks,
        seconds=statistics.fmean(record.seconds.total for record in records),
        cost_usd=_average([record.cost_usd for record in records]), trials=len(own),
        failures=tuple(t.failure for t in everything if t.experiment == name and t.failure),
        validated="; ".join(dict.fromkeys(record.validated for record in records if record.validated)),
    )  # fmt: skip


def _keep(found: Mapping[str, Statistic | None]) -> dict[str, Statistic]:
    return {metric: statistic for metric, statistic in found.items() if statistic is not None}


def _find_remarks(own: list[TrialResult], base: list[TrialResult], everything: Sequence[TrialResult]) -> Iterator[str]:
    """Reasons why nothing can be concluded from these trials, or from those that they are compared with."""
    for trials in (own, base) if base else (own,):
        name = trials[0].experiment
        early = sum(trial.is_stopped_early for trial in everything if trial.experiment == name)
        if early:
            yield f"{name}: {len(trials)} of {len(trials) + early} seeds, {SELECTED}"
        for place, trial in enumerate(trials):
            same = next((t for t in trials[:place] if t.seed == trial.seed or t.values == trial.values), None)
            if same:
                yield f"{name}: seeds {same.seed} and {trial.seed} coincide ({same.name}, {trial.name}): they are one"
    if base and [t.values for t in own] == [t.values for t in base]:
        yield f"{own[0].experiment} has the numbers of {base[0].experiment} to the digit: they trained the same thing"


def _average(costs: Sequence[float | None]) -> float | None:
    known = [cost for cost in costs if cost is not None]
    return statistics.fmean(known) if known and len(known) == len(costs) else None


def _find_shortfalls(row: Row, references: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Bars that a row's 95 % interval does not clear; a mean that is nan clears nothing."""
    for metric, (words, name, sign) in HURDLES.items():
        hurdle, found = references.get(name, {}).get(metric), row.bars.get(metric)
        if hurdle is None or found is None or find_side(found) == sign:
            continue
        side = ("above" if sign > 0 else "below") if find_side(found) == 0 else ("below" if sign > 0 else "above")
        verb = "not shown to be" if find_side(found) == 0 else "is"
        text = f"{row.experiment}: {words} {row.metrics[metric].mean:.3f}"
        yield f"{text} {'is ' if verb != 'is' else ''}{verb} {side} {name}'s {hurdle:.3f}{_explain(found)}"


def find_side(found: Statistic) -> int:
    """1 or -1 where the 95 % interval of a difference lies above or below 0, else 0. One seed: over games alone."""
    if found.total is None:
        ends = (found.low, found.high) if found.n == 1 else (None, None)
    else:
        ends = (found.mean - found.total, found.mean + found.total)
    if ends[0] is None or ends[1] is None:
        return 0
    return int(ends[0] > 0) - int(ends[1] < 0)


def _explain(found: Statistic) -> str:
    if found.total is not None:
        return f" (difference {found.mean:+.3f} ±{found.total:.3f})"
    if found.low is not None and found.n == 1:
        return f" (difference over games {found.low:+.3f} to {found.high:+.3f})"
    return " (one seed: no interval)" if found.n == 1 else ""
