"""`card.md` and `card.html`: one page on a run, rendered from its record, its experiment and its metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import yaml

from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import as_values, describe_changes, flatten
from worldmodel.machine.device_state import render_state
from worldmodel.object_store import MissingError
from worldmodel.run.budget import describe_budget
from worldmodel.run.card_page import ALL_METRICS, CARD_PAGE, to_html
from worldmodel.run.estimate import describe_estimate
from worldmodel.run.interruption import describe_interruption
from worldmodel.run.record import RunRecord, Seconds, State
from worldmodel.run.reporter import format_duration, format_usd
from worldmodel.run.run import EVALUATION
from worldmodel.run.run_folder import describe_end, read_config, read_record
from worldmodel.run.tracking import read_metrics
from worldmodel.storage import Location

CARD = "card.md"
ABSENT = "not measured"
_VALIDATION = ("val_", "eval/")
HEADLINE = {
    "val_metric/position_mae": "position MAE",
    "val_metric/action_change_acc_both": "action-change accuracy",
    "val_metric/action_acc": "action accuracy",
    "val_metric/action_ce": "action cross-entropy",
    "val_loss/total": "loss",
    "eval/summary_pos_mae_k20": "position MAE in rollouts",
}
"""Metrics that a reader looks at first: how the name begins, and what people call it."""
CERTIFIED = ("batch/loss", "batch/grad_norm", "lr", "val_loss/total", "val_metric/position_mae")
"""Metrics that tell of a run's health at its end."""


def render_card(
    record: RunRecord,
    config: ExperimentConfig,
    metrics: Sequence[Mapping[str, Any]],
    evaluated: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
    """The card's Markdown.

    Args:
        record: what the run says of itself.
        config: the experiment, complete.
        metrics: rows as `worldmodel.run.tracking.read_metrics` gives them.
        evaluated: "model" or a baseline's name to its values, under the validation metrics' names.
    """
    parts = (
        _render_front(record),
        f"# {record.name}\n\n{record.goal or 'No goal was given.'}",
        _render_end(record),
        _render_certificate(record),
        _render_results(record, config, metrics, evaluated or {}),
        _render_changes(record, config),
        _render_effort(record, config),
        _render_notes(record),
        _render_metrics(config, metrics, evaluated or {}),
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def write_card(location: Location) -> None:
    """Renders the card of a run folder from what the folder holds; an evaluation of the same data gives more columns.

    Raises:
        UserError: the folder lacks its record or its experiment, or cannot be written.
    """
    record = read_record(location)
    text = render_card(record, read_config(location), read_metrics(location), _read_evaluated(location, record))
    (location / CARD).write_text(text)
    (location / CARD_PAGE).write_text(to_html(record.name, text))


def _read_evaluated(location: Location, record: RunRecord) -> dict[str, dict[str, float]]:
    """The rows of `evaluation.json`, the model's named by its step, under the validation metrics' names."""
    try:
        found = json.loads((location / EVALUATION).read_text())
        if found["data_fingerprint"] != record.data_fingerprint:
            return {}
        names = {"model": f"model (step {found['step']})", "most frequent next action": "most frequent"}
        rows = found["rows"].items()
        return {names.get(row, row): {f"val_{name}": v for name, v in values.items()} for row, values in rows}
    except (MissingError, ValueError, KeyError, AttributeError):
        return {}


def _render_front(record: RunRecord) -> str:
    facts = {
        "name": record.name,
        "state": record.state.value,
        "started": _format_time(record.started),
        "ended": _format_time(record.ended),
        "steps": record.step,
        "commit": record.commit,
        "version": record.version,
        "schema_hash": record.schema_hash,
        "model_hash": record.model_hash,
        "data_fingerprint": record.data_fingerprint or None,
        "parameters": record.parameters,
        "metric_version": record.metric_version,
        "wandb": record.wandb,
    }
    return f"---\n{yaml.safe_dump(facts, sort_keys=False, width=120)}---"


def _render_end(record: RunRecord) -> str:
    rows = [("State", describe_end(record)), ("Command", f"`{record.command}`")]
    rows += [
        (f"Attempt {k}", f"{a.state.value} at step {a.step}: {a.reason}") for k, a in enumerate(record.attempts, 1)
    ]
    rows += [(f"Interruption {k}", describe_interruption(i)) for k, i in enumerate(record.interruptions, 1)]
    if record.resume_command and record.state is not State.FINISHED:
        rows.append(("Resume", f"`{record.resume_command}`"))
    return "## Run\n\n" + "\n".join(f"- {name}: {text}" for name, text in rows)


def _render_certificate(record: RunRecord) -> str:
    """All that is known of an end that came too early; nothing for a run that finished, or has not ended."""
    if record.state not in (State.FAILED, State.LOST, State.STOPPED):
        return ""
    metrics = {name: value for name, value in record.metrics.items() if name in CERTIFIED and value is not None}
    place = f"worker {record.rank} on " if record.rank is not None else ""
    rows = [
        ("Cause", record.reason or "not known"),
        ("Where", place + (record.ended_on or record.hosts[0])),
        ("Step", f"{record.step} of {record.total_steps or 'unknown'}, epoch {record.epoch + 1}"),
        ("Last metrics", ", ".join(f"{name} {_format_number(value)}" for name, value in metrics.items()) or ABSENT),
        ("Machine", render_state(record.device_state) or ABSENT),
        ("Cost", ABSENT if record.cost_usd is None else format_usd(record.cost_usd)),
        ("Newest good checkpoint", f"`{record.checkpoint}`" if record.checkpoint else "none: a resume begins again"),
        ("Resume", f"`{record.resume_command}`" if record.resume_command else ABSENT),
        *([("Written by", record.ended_by)] if record.ended_by else []),
    ]
    text = "## How it ended\n\n" + "\n".join(f"- {name}: {text}" for name, text in rows)
    lines = "\n".join(record.last_lines)
    return f"{text}\n\nIts last {len(record.last_lines)} lines:\n\n```\n{lines}\n```" if lines else text


def _render_changes(record: RunRecord, config: ExperimentConfig) -> str:
    head = ("setting", "value", "default", *(["set by"] if record.origins else []))
    changes = {key: default for key, default, _ in describe_changes(config)}
    rows = [
        (
            f"`{key}`",
            _show(value),
            _show(changes.get(key, value)),
            *([record.origins.get(key, "")] if record.origins else []),
        )
        for key, value in flatten(as_values(config)).items()
        if key in changes or (key in record.origins and key not in ("name", "goal"))
    ]
    return "## What was run\n\n" + (_render_table(head, rows) if rows else "Every setting has its default.")


def _render_results(
    record: RunRecord,
    config: ExperimentConfig,
    metrics: Sequence[Mapping[str, Any]],
    evaluated: Mapping[str, Mapping[str, float]],
) -> str:
    """The metrics that a reader looks at first."""
    names = {name: text for start, text in HEADLINE.items() for name in _list_names(metrics, start)}
    selected = config.training.best_metric
    names = {selected: f"`{selected}`", **names}
    note = f"Each epoch was {record.validated}; an evaluation takes all.\n\n" if record.validated else ""
    parts = [f"{note}{_render_history(names, config, metrics)}", _render_evaluated(names, evaluated)]
    return "\n\n".join([f"## Results (metric version {record.metric_version})", *filter(None, parts)])


def _render_metrics(
    config: ExperimentConfig, metrics: Sequence[Mapping[str, Any]], evaluated: Mapping[str, Mapping[str, float]]
) -> str:
    """Every metric of the validation."""
    names = {name: f"`{name}`" for start in _VALIDATION for name in _list_names(metrics, start)}
    parts = [_render_history(names, config, metrics), _render_evaluated(names, evaluated)]
    return "\n\n".join([f"## {ALL_METRICS}", *filter(None, parts)]) if names else ""


def _list_names(metrics: Sequence[Mapping[str, Any]], start: str) -> list[str]:
    return sorted({name for row in metrics for name in row if name.startswith(start)})


def _render_history(names: Mapping[str, str], config: ExperimentConfig, metrics: Sequence[Mapping[str, Any]]) -> str:
    """First value of each metric, that at the step of the best selection metric, and its last."""
    chosen = _find_known(metrics, config.training.best_metric)
    best = _find_best(chosen, config.training.best_mode)
    rows = []
    for name, text in names.items():
        known = _find_known(metrics, name)
        at_best = dict(known).get(best[0]) if best else None
        first, last = (known[place][1] if known else None for place in (0, -1))
        rows.append((text, *map(_format_number, (first, at_best, last))))
    head = ("metric", "first", f"best (step {best[0]})" if best else "best", "last")
    return _render_table(head, rows, is_number=True)


def _render_evaluated(names: Mapping[str, str], evaluated: Mapping[str, Mapping[str, float]]) -> str:
    """What the model and the baselines reach on all validation games; empty where that was not evaluated."""
    known = {name: text for name, text in names.items() if any(name in values for values in evaluated.values())}
    rows = [(text, *(_format_number(row.get(name)) for row in evaluated.values())) for name, text in known.items()]
    title = "All validation games, where a baseline needs no training:\n\n"
    return title + _render_table(("metric", *evaluated), rows, is_number=True) if rows else ""


def _find_known(metrics: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(row["step"], row[name]) for row in metrics if row.get(name) is not None]


def _find_best(known: Sequence[tuple[int, float]], mode: str) -> tuple[int, float] | None:
    choose = min if mode == "min" else max
    return choose(known, key=lambda pair: pair[1]) if known else None


def _render_effort(record: RunRecord, config: ExperimentConfig) -> str:
    spent = record.seconds
    why = f"price unknown: {record.price_origin}" if record.price_origin else "price unknown"
    cost = f"{ABSENT} ({why})" if record.cost_usd is None else format_usd(record.cost_usd) + _explain_price(record)
    device = record.device.get("gpu") or record.device.get("name") or ABSENT
    rows = [
        ("Time", format_duration(spent.total) if spent.total else ABSENT),
        ("of it training", format_duration(spent.training) if spent.training else ABSENT),
        ("of that waiting for data", _format_waiting(spent)),
        ("of it validation", format_duration(spent.validation) if spent.validation else ABSENT),
        ("Cost", cost),
        ("Estimate", describe_estimate(record)),
        *([("Budget", describe_budget(record.budget))] if record.budget else []),
        ("Device", f"{device}, {record.world_size} worker{'s' * (record.world_size != 1)}"),
        *_render_shares(record),
        *([("Frames", record.frames)] if record.frames else []),
        ("Hosts", ", ".join(record.hosts)),
        ("Seed", str(config.training.seed)),
    ]
    return "## Cost and time\n\n" + "\n".join(f"- {name}: {text}" for name, text in rows)


def _format_waiting(spent: Seconds) -> str:
    if not spent.training:
        return ABSENT
    return f"{format_duration(spent.data)} ({100 * spent.data / spent.training:.1f} %)"


def _render_shares(record: RunRecord) -> list[tuple[str, str]]:
    """Where a step's time went at last, where a device works beside the host."""
    names = {"host": "host at work", "device": "device at work"}
    known = {text: record.metrics.get(f"speed/{name}_share") for name, text in names.items()}
    shown = [f"{text} {100 * share:.0f} %" for text, share in known.items() if share is not None]
    return [("Of a step", ", ".join(shown))] if shown else []


def _explain_price(record: RunRecord) -> str:
    origin = f": {record.price_origin}" if record.price_origin else ""
    return f" (${record.price_per_hour_usd:.4g} an hour{origin})"


def _render_notes(record: RunRecord) -> str:
    parts = []
    if record.notes:
        parts.append("## Notes\n\n" + "\n".join(f"- {note}" for note in record.notes))
    if record.traceback:
        parts.append(f"## Error\n\n```\n{record.traceback.rstrip()}\n```")
    return "\n\n".join(parts)


def _render_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, is_number: bool = False) -> str:
    lines = [head, ["---", *["---:" if is_number else "---"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _show(value: Any) -> str:
    """A setting as its file has it."""
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def _format_number(value: float | int | None) -> str:
    return ABSENT if value is None or not math.isfinite(value) else f"{value:.5g}"


def _format_time(when: datetime | None) -> str | None:
    return f"{when:%Y-%m-%dT%H:%M:%SZ}" if when else None
