"""A grid's results for machines: JSON and CSV, with every trial, every statistic and every row without training."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from typing import Any, cast

from tune.columns import COLUMNS
from tune.results import METRICS, PUBLISHED, Row, Statistic, Table, TrialResult
from tune.verdict import find_cautions, find_verdicts
from worldmodel.run.card import CARD

STATISTIC = tuple(field.name for field in fields(Statistic))
CSV_COLUMNS = (
    "kind", "name", "experiment", "seed", "horizon", "data", "metric_version", "encoding_targets", "target_frames",
    "stopped_early", "metric", *STATISTIC, *(f"difference_{name}" for name in STATISTIC), "published", "steps",
    "seconds", "estimated_seconds", "cost_usd", "estimated_cost_usd", "failure", "validated_games", "validation_games",
)  # fmt: skip
"""`kind` is "experiment", "reference" (needs no training) or "trial"; a trial's value stands under `mean`."""


def to_json(tables: Sequence[Table], trials: Sequence[TrialResult]) -> dict[str, Any]:
    """Everything, as plain values: one entry of `trials` per trial, then tables, verdicts and published numbers."""
    found = {
        "trials": [describe_trial(trial) for trial in trials],
        "tables": [asdict(table) for table in tables],
        "verdicts": [asdict(verdict) for verdict in find_verdicts(tables)],
        "cautions": find_cautions(tables),
        "published": {name: asdict(numbers) for name, numbers in PUBLISHED.items()},
    }
    return cast(dict[str, Any], drop_non_finite(found))


def describe_trial(trial: TrialResult) -> dict[str, Any]:
    """One trial's line."""
    record, evaluation = trial.record, trial.evaluation or {}
    line: dict[str, Any] = {
        "name": trial.name, "experiment": trial.experiment, "seed": trial.seed, "finished": trial.is_finished,
        "stopped_early": trial.is_stopped_early, "failure": trial.failure,
        "state": record.state.value if record else None,
        "axes": record.axes if record else {},
        "metrics": trial.values or None, "card": f"{trial.name}/{CARD}" if record else None,
    }  # fmt: skip
    for name in ("step", "total_steps", "epoch", "commit", "parameters", "cost_usd"):
        line[name] = getattr(record, name) if record else None
    promised = record.seconds_promised if record else None
    line["estimated_seconds"] = promised
    line["estimated_cost_usd"] = record.price(promised) if record and promised is not None else None
    line["validated_games"], line["validation_games"] = (record and record.validated_games) or (None, None)
    line["seconds"] = record.seconds.total if record else None
    line["seconds_training"] = record.seconds.training if record else None
    line["seconds_validation"] = record.seconds.validation if record else None
    for name in ("horizon", "data_fingerprint", "metric_version", "encoding_targets"):
        line[name] = evaluation.get(name)
    return line


def drop_non_finite(found: Any) -> Any:
    """With None for what JSON has no number for."""
    if isinstance(found, dict):
        return {name: drop_non_finite(value) for name, value in found.items()}
    if isinstance(found, list | tuple):
        return [drop_non_finite(value) for value in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found


def to_csv(tables: Sequence[Table], trials: Sequence[TrialResult]) -> str:
    """One line per row and metric: experiments, rows that need no training, trials."""
    page = io.StringIO()
    out = csv.DictWriter(page, CSV_COLUMNS)
    out.writeheader()
    for table in tables:
        common = {
            "horizon": table.horizon, "data": table.fingerprint, "metric_version": table.metric_version,
            "encoding_targets": table.encoding_targets, "target_frames": table.target_frames,
            "stopped_early": table.stopped_early,
        }  # fmt: skip
        for row in table.rows:
            out.writerows({**common, **line} for line in _row_lines(row, table))
        for name, values in table.references.items():
            line = {**common, "kind": "reference", "name": name}
            out.writerows({**line, "metric": metric, "mean": values[metric]} for metric in METRICS if metric in values)
    for trial in trials:
        out.writerows(_trial_lines(trial))
    return page.getvalue()


def _row_lines(row: Row, table: Table) -> Iterator[dict[str, Any]]:
    published = {column.metric: column.find_published(row.experiment) for column in COLUMNS}
    common = {
        "kind": "experiment", "name": row.names[0] if table.stopped_early else row.experiment,
        "experiment": row.experiment, "steps": row.steps,
        "seconds": row.seconds, "cost_usd": row.cost_usd, "failure": "; ".join(row.failures),
    }  # fmt: skip
    for metric, found in row.metrics.items():
        line = {**common, "metric": metric, **asdict(found)}
        if metric in row.difference:
            line |= {f"difference_{name}": value for name, value in asdict(row.difference[metric]).items()}
        yield {**line, "published": published.get(metric)}


def _trial_lines(trial: TrialResult) -> Iterator[dict[str, Any]]:
    told = describe_trial(trial)
    common = {
        **{name: told[name] for name in CSV_COLUMNS if name in told}, "kind": "trial", "data": told["data_fingerprint"],
        "steps": told["step"],
    }  # fmt: skip
    if not trial.values:
        yield common
    for metric in (metric for metric in METRICS if metric in trial.values):
        yield {**common, "metric": metric, "mean": trial.values[metric], "n": 1}
