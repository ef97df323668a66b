"""One trial of a grid, however it ended, with the values that count in tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tune.record import TrialName
from tune.variants import Trial
from worldmodel.errors import UserError
from worldmodel.object_store import MissingError
from worldmodel.rollout.evaluation import EVALUATION
from worldmodel.run.record import RunRecord, State
from worldmodel.run.run_folder import read_record
from worldmodel.statistics import Draws, Statistic, resample
from worldmodel.storage import Location

TRIAL_EVALUATION = "trial_evaluation.json"
"""A trial's own evaluation, which its grid's tables hold. `evaluation.json` is the last one that somebody asked for,
maybe of another checkpoint or other games."""
NEEDED = {"step", "horizon", "data_fingerprint", "metric_version", "rows"}
"""Keys without which an `evaluation.json` says nothing."""
VALIDATION, TEST = "validation", "test"
"""Parts of the games."""


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

    def find_part(self, part: str) -> dict[str, Any]:
        """Its evaluation on one part of the games; empty where it counts in no table or has none."""
        if not self.values:
            return {}
        return (self.evaluation or {}) if part == VALIDATION else (self.evaluation or {}).get(TEST) or {}

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


def measure(trials: Sequence[TrialResult], metric: str, part: str = VALIDATION) -> Statistic | None:
    """A metric over seeds and games; None where a trial lacks it."""
    values = [_value(trial, metric, part) for trial in trials]
    return _make_statistic(values, _resample(trials, metric, part))


def compare(pairs: Sequence[tuple[TrialResult, TrialResult]], metric: str, part: str = VALIDATION) -> Statistic | None:
    """The first minus the second of each pair, over seeds and games; None where a trial lacks the metric."""
    both = [(_value(a, metric, part), _value(b, metric, part)) for a, b in pairs]
    values = [None if a is None or b is None else a - b for a, b in both]
    own, other = (_resample([pair[side] for pair in pairs], metric, part) for side in (0, 1))
    shares_games = len({tuple(t.find_part(part).get("game_names", ())) for pair in pairs for t in pair}) == 1
    draws = own - other if own and other and shares_games else None
    return _make_statistic(values, draws)


def compare_with(trials: Sequence[TrialResult], row: str, metric: str, part: str = VALIDATION) -> Statistic | None:
    """The model minus a row without training, over seeds and games; None where one lacks the metric."""
    both = [(_value(t, metric, part), _value(t, metric, part, row)) for t in trials]
    values = [None if a is None or b is None else a - b for a, b in both]
    own, other = _resample(trials, metric, part), _resample(trials[:1], metric, part, row)
    return _make_statistic(values, own - other if own and other else None)


def _value(trial: TrialResult, metric: str, part: str, row: str = "model") -> float | None:
    found: float | None = trial.find_part(part).get("rows", {}).get(row, {}).get(metric)
    return found


def _make_statistic(values: Sequence[float | None], draws: Draws | None) -> Statistic | None:
    known = [value for value in values if value is not None]
    return Statistic.of(known, draws) if known and len(known) == len(values) else None


def _resample(trials: Sequence[TrialResult], metric: str, part: str, row: str = "model") -> Draws | None:
    """The mean over trials for each resample of the games; None where one has no values by game."""
    found = [trial.find_part(part).get("by_game", {}).get(row, {}).get(metric) for trial in trials]
    is_whole = all(found) and len({len(values[0]) for values in found}) == 1
    return resample(np.array(found, dtype=np.float64)) if found and is_whole else None
