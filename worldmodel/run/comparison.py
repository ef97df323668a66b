"""`worldmodel compare`: what differs between two runs, and whether their results may be compared at all."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import describe_changes
from worldmodel.object_store import MissingError
from worldmodel.run.record import RunRecord, State
from worldmodel.run.run import EVALUATION
from worldmodel.run.run_folder import read_config, read_record
from worldmodel.statistics import Statistic, resample
from worldmodel.storage import Location

FACTS = (
    "state", "commit", "version", "schema_hash", "model_hash", "data_fingerprint", "blocks", "parameters",
    "world_size", "step", "total_steps", "epoch", "early_stopped",
)  # fmt: skip
"""Fields of `RunRecord` that may differ."""
MUST_AGREE = {
    "horizon": "they predict differently far ahead, which are two tasks",
    "data_fingerprint": "they were measured on other games or another split",
    "metric_version": "the metrics' meaning changed between them",
    "encoding_targets": "they predict other targets, so their losses do not compare",
    "games": "they were measured on other numbers of validation games",
    "targets": "they were measured on other frames of the games",
}
"""Field of `evaluation.json` to what it means where two differ."""
VALIDATED = "val_"
"""Before the names of metrics that the run itself validated."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is known of a run's quality."""

    source: str
    """"evaluation", "last validation" (and on which part of the games) or "none"."""
    step: int | None
    """Optimizer steps behind it."""
    facts: Mapping[str, Any]
    """Under the names of `MUST_AGREE`; what is not known is absent."""
    values: Mapping[str, float | None]
    """Metric name to value."""
    baselines: Mapping[str, Mapping[str, float]]
    """Rows that need no training, on the same targets."""
    game_names: Sequence[str] = ()
    by_game: Mapping[str, Any] = field(default_factory=dict)
    """The model's sums and counts, see `rollout.evaluation.Part`."""


@dataclass(frozen=True, kw_only=True)
class RunSide:
    """One of the two runs."""

    location: Location
    record: RunRecord
    config: ExperimentConfig
    measured: Measured


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Pairs are (first run, second run)."""

    runs: tuple[str, str]
    """Where they lie."""
    settings: dict[str, tuple[Any, Any]]
    """Dotted key to the two values, where they differ."""
    facts: dict[str, tuple[Any, Any]]
    """State, code and data, where they differ."""
    sources: tuple[str, str]
    """Where the results come from."""
    results: dict[str, tuple[float | None, float | None]]
    """Metric to its two values."""
    intervals: dict[str, tuple[float, float]]
    """Metric to the 95 % interval over games of its difference, second minus first (paired bootstrap). It says nothing
    of other seeds."""
    baselines: dict[str, dict[str, tuple[float | None, float | None]]]
    """Name of a row that needs no training to the same of it."""
    effort: dict[str, tuple[float | None, float | None]]
    """Seconds and dollars."""
    warnings: list[str]
    """Why the results may not be compared, or not wholly; empty: they may."""


def compare_runs(first: Location, second: Location) -> Comparison:
    """What differs between two run folders.

    Raises:
        UserError: one of them is no run folder, or was written by a version that this one does not understand.
    """
    sides = open_side(first), open_side(second)
    records = tuple(side.record for side in sides)
    measured = tuple(side.measured for side in sides)
    return Comparison(
        runs=(str(first), str(second)),
        settings=_find_settings(*(side.config for side in sides)),
        facts=_find_differences(*({name: _plain(getattr(record, name)) for name in FACTS} for record in records)),
        sources=(_describe_source(measured[0]), _describe_source(measured[1])),
        results=_pair(*(found.values for found in measured)),
        intervals=_find_intervals(*measured),
        baselines={
            name: _pair(*(found.baselines.get(name, {}) for found in measured))
            for name in dict.fromkeys(name for found in measured for name in found.baselines)
        },
        effort=_pair(*({**record.seconds.model_dump(), "cost_usd": record.cost_usd} for record in records)),
        warnings=list(_find_warnings(*sides)),
    )


def open_side(location: Location) -> RunSide:
    """A run, with the best that is known of its quality."""
    record, config = read_record(location), read_config(location)
    return RunSide(location=location, record=record, config=config, measured=_measure(location, record, config))


def _measure(location: Location, record: RunRecord, config: ExperimentConfig) -> Measured:
    """An evaluation, which has baselines and says what it was measured on, before the run's own last validation."""
    try:
        found = json.loads((location / EVALUATION).read_text())
        rows = dict(found["rows"])
        return Measured(
            source="evaluation", step=found["step"], values=_drop_non_finite(rows.pop("model")), baselines=rows,
            game_names=found.get("game_names", ()), by_game=found.get("by_game", {}).get("model", {}),
            facts={name: found[name] for name in MUST_AGREE if name in found},
        )  # fmt: skip
    except MissingError:
        pass
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{location / EVALUATION} cannot be understood: {error!r}; evaluate the run again") from error
    values = {name.removeprefix(VALIDATED): v for name, v in record.metrics.items() if name.startswith(VALIDATED)}
    facts = {
        "horizon": 1 + config.encoding.lookahead,
        "data_fingerprint": record.data_fingerprint,
        "encoding_targets": config.encoding.targets,
        "metric_version": record.metric_version,
        "games": record.validated_games and record.validated_games[0],
    }
    part = record.validated.removeprefix("validated")
    source = f"last validation{part}" if values else "none"
    return Measured(source=source, step=None, facts=facts, values=values, baselines={})


def _find_intervals(first: Measured, second: Measured) -> dict[str, tuple[float, float]]:
    if first.game_names != second.game_names or len(first.game_names) < 2:
        return {}
    found = {}
    for metric in (name for name in first.by_game if name in second.by_game):
        one, other = (resample(np.array([side.by_game[metric]], dtype=np.float64)) for side in (first, second))
        statistic = Statistic.of([0.0], other - one)
        if statistic.low is not None and statistic.high is not None:
            found[metric] = statistic.low, statistic.high
    return found


def _drop_non_finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _describe_source(found: Measured) -> str:
    version = f", metric version {found.facts['metric_version']}" if "metric_version" in found.facts else ""
    return f"{found.source}{version}" if found.step is None else f"{found.source} of step {found.step}{version}"


def _find_warnings(first: RunSide, second: RunSide) -> Iterator[str]:
    one, other = first.measured, second.measured
    for name, meaning in MUST_AGREE.items():
        values = one.facts.get(name), other.facts.get(name)
        if None not in values and values[0] != values[1]:
            yield f"results do not compare: {meaning} ({name}: {values[0]} and {values[1]})"
    if one.source != other.source:
        yield f"results are of two kinds: {one.source} and {other.source}; evaluate both with `worldmodel evaluate`"
    for side in (first, second):
        if side.record.early_stopped:
            yield f"{side.record.name} was stopped early by a scheduler: it learnt less than it was to"
        elif side.record.state is not State.FINISHED:
            yield f"{side.record.name} is {side.record.state.value} at step {side.record.step}"
        if side.measured.step not in (None, side.record.step):
            yield f"{side.record.name} was evaluated at step {side.measured.step}, it has {side.record.step}"


def _find_settings(first: ExperimentConfig, second: ExperimentConfig) -> dict[str, tuple[Any, Any]]:
    changes = [{key: (default, value) for key, default, value in describe_changes(c)} for c in (first, second)]
    found = {}
    for key in sorted(changes[0].keys() | changes[1].keys()):
        default = next(change[key][0] for change in changes if key in change)
        found[key] = tuple(change.get(key, (default, default))[1] for change in changes)
    return {key: (one, other) for key, (one, other) in found.items() if one != other}


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, State) else value


def _find_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    pairs = _pair(first, second)
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _pair(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (first.get(name), second.get(name)) for name in dict.fromkeys([*first, *second])}
