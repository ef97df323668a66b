"""Search that chooses each trial by the results of others: Optuna's, through Ray Tune."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from tune.axes import Point, Space, round_value
from tune.record import GridRecord
from tune.trial import POINT, VALUE
from tune.variants import GridPlan, Trial, make_trials, place_trial
from worldmodel.errors import UserError
from worldmodel.object_store import MissingError
from worldmodel.run.run_folder import read_record
from worldmodel.storage import Location

TRIES = 50
"""Suggestions in a row that repeat a trained point, after which the search ends."""


@dataclass(kw_only=True)
class Search:
    """The trials of an adaptive search; it grows while the grid runs."""

    base: Trial
    """Its experiment, without a point."""
    spaces: Mapping[str, Space]
    count: int
    """Points to try in all."""
    hear: Callable[[Trial], None] = lambda trial: None
    """Takes each new trial."""
    trials: list[Trial] = field(default_factory=list)
    """All trials so far, those of earlier attempts first."""

    def add(self, point: Mapping[str, Any]) -> Trial:
        """The trial at a point, new or known."""
        trial = place_trial(self.base, {key: round_value(value) for key, value in point.items()})
        known = next((other for other in self.trials if other.name == trial.name), None)
        if known is None:
            self.trials.append(trial)
            self.hear(trial)
        return known or trial


def make_searcher(search: Search, folder: Location, todo: Sequence[Trial]) -> Any:
    """Optuna's search in Ray Tune: it knows the values of finished trials, and starts with the unfinished ones."""
    import optuna
    from ray.tune.search import Searcher
    from ray.tune.search.optuna import OptunaSearch

    class DistinctSearch(OptunaSearch):
        """Suggests no point that was trained already."""

        def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
            for tried in range(TRIES):
                name = f"{trial_id}-{tried}"
                found = super().suggest(name)
                text = repr(_round(found[POINT]))
                if text not in seen:
                    seen.add(text)
                    self._ot_trials[trial_id] = self._ot_trials[name]
                    return dict(found)
                self.on_trial_complete(name, None)
            return str(Searcher.FINISHED)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seen: set[str] = set()
    waiting = [dict(trial.axes) for trial in todo]
    done = [trial for trial in search.trials if trial not in todo]
    training = search.base.config.training
    space = OptunaSearch.convert_search_space({POINT: {key: space.domain for key, space in search.spaces.items()}})
    points = [{f"{POINT}/{key}": value for key, value in point.items()} for point in waiting]
    searcher = DistinctSearch(
        space=space, metric=VALUE, mode=training.best_mode, seed=0, points_to_evaluate=points or None
    )
    for trial in done:
        with suppress(MissingError, UserError):
            value = read_record(folder / trial.name).metrics.get(training.best_metric)
            parameters = {f"{POINT}/{key}": part for key, part in trial.axes.items()}
            seen.add(repr(dict(trial.axes)))
            if value is not None:
                searcher.add_evaluated_point(parameters, value)
    return searcher


def _round(point: Mapping[str, Any]) -> Point:
    return {key: round_value(value) for key, value in point.items()}


def make_search(plan: GridPlan, older: GridRecord | None) -> Search:
    """The search of an adaptive grid, with the trials of its earlier attempts."""
    [base] = make_trials(replace(plan, spaces={}, trials=0))
    search = Search(base=base, spaces=plan.spaces, count=plan.trials)
    for trial in older.trials if older else ():
        search.add(trial.axes)
    return search
