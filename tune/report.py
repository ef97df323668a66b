"""A grid's results for people and machines: a table on the terminal, `report.html`, `results.csv`, `results.json`."""

from __future__ import annotations

import csv
import html
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from typing import Any, cast

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from tune.results import CONFIDENCE, METRICS, PUBLISHED, Row, Statistic, Table, TrialResult, make_tables
from worldmodel.errors import UserError
from worldmodel.storage import Location
from worldmodel.training.reporter import format_duration
from worldmodel.training.tracking import read_metrics

REPORT, CSV, JSON = "report.html", "results.csv", "results.json"
COLUMNS = {
    "metric/position_mae": ("position", "position_mae", 3, 1.0),
    "metric/action_acc": ("action %", "action_acc", 2, 100.0),
    "metric/action_change_acc": ("change %", "action_change_acc", 1, 100.0),
    "metric/action_change_acc_previous": ("previous %", "", 1, 100.0),
    "metric/action_ce": ("action CE", "", 3, 1.0),
}
"""Metric to heading, field of `Published`, digits, and the factor it is shown with."""
STATISTIC = tuple(field.name for field in fields(Statistic))
CSV_COLUMNS = (
    "horizon", "data", "metric_version", "experiment", "metric", *STATISTIC,
    *(f"difference_{name}" for name in STATISTIC), "published",
)  # fmt: skip
CURVES = ("batch/loss", "val_metric/position_mae", "val_metric/action_change_acc")
SHORT = {"most frequent next action": "most frequent"}
"""Names of reference rows that are too long for a terminal."""
SHORTER = [name for name, found in PUBLISHED.items() if found.epochs == 1]
FOOTNOTE = (
    "position: mean absolute error in Melee units; action: accuracy; change: accuracy on frames where player 0's "
    "action differs from the last context frame (previous: from the frame before the target; the same but under "
    "lookahead, whose rows stand apart); CE: cross-entropy. Means over n seeds, ± half the "
    f"{CONFIDENCE:.0%} confidence interval (Student's t); differences are paired by seed. Published: one run each on "
    f"2,000 games, no seeds; {', '.join(SHORTER)} after one epoch, the others after two."
)


def format_statistic(found: Statistic | None, metric: str) -> str:
    """Mean and half of its confidence interval, as the column shows it."""
    if found is None:
        return ""
    _, _, digits, factor = COLUMNS[metric]
    mean = f"{found.mean * factor:.{digits}f}"
    return mean if found.half_width is None else f"{mean} ±{found.half_width * factor:.{digits}f}"


def title_of(table: Table) -> str:
    """What the rows of a table have in common."""
    ahead = "one frame ahead" if table.horizon == 1 else f"{table.horizon} frames ahead (lookahead)"
    return f"{ahead} | data {table.fingerprint} | metric version {table.metric_version}"


def render_terminal(tables: Sequence[Table], trials: Sequence[TrialResult]) -> Group:
    """The tables, and below them what failed."""
    parts: list[Any] = []
    for table in tables:
        shown = RichTable(title=title_of(table), title_justify="left")
        shown.add_column("experiment", no_wrap=True)
        for heading in (*(heading for heading, *_ in COLUMNS.values()), "n", "time"):
            shown.add_column(heading, justify="right")
        for row in table.rows:
            shown.add_row(*_cells(row))
        shown.add_section()
        for name, values in table.references.items():
            shown.add_row(
                SHORT.get(name, name), *(_reference(values, metric) for metric in COLUMNS), "", "", style="dim"
            )
        parts.append(shown)
    failures = [f"not finished: {trial.name}: {trial.failure}" for trial in trials if trial.failure]
    return Group(*parts, *(Text(line, style="red") for line in failures))


def _cells(row: Row) -> list[str]:
    found = [format_statistic(row.metrics.get(metric), metric) for metric in COLUMNS]
    return [row.experiment, *found, str(row.trials), format_duration(row.seconds)]


def _reference(values: dict[str, float], metric: str) -> str:
    _, _, digits, factor = COLUMNS[metric]
    return f"{values[metric] * factor:.{digits}f}" if metric in values else ""


def write_report(folder: Location, trials: Sequence[TrialResult]) -> list[Table]:
    """Write the report, CSV and JSON of a grid into its folder; returns its tables."""
    tables = make_tables(trials)
    (folder / JSON).write_text(json.dumps(to_json(tables, trials), indent=1))
    (folder / CSV).write_text(to_csv(tables))
    (folder / REPORT).write_text(to_html(folder, tables, trials))
    return tables


def to_json(tables: Sequence[Table], trials: Sequence[TrialResult]) -> dict[str, Any]:
    """Everything, as plain values."""
    rows = [
        {
            "name": t.name, "experiment": t.experiment, "seed": t.seed, "finished": t.is_finished, "failure": t.failure,
            "seconds": t.record.seconds.total if t.record else None,
            "metrics": t.evaluation["rows"]["model"] if t.evaluation and t.is_finished else None,
        }
        for t in trials
    ]  # fmt: skip
    published = {name: asdict(found) for name, found in PUBLISHED.items()}
    found = {"trials": rows, "tables": [asdict(table) for table in tables], "published": published}
    return cast(dict[str, Any], _drop_non_finite(found))


def _drop_non_finite(found: Any) -> Any:
    """With None for what JSON has no number for."""
    if isinstance(found, dict):
        return {name: _drop_non_finite(value) for name, value in found.items()}
    if isinstance(found, list | tuple):
        return [_drop_non_finite(value) for value in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found


def to_csv(tables: Sequence[Table]) -> str:
    """One line per experiment and metric, then those of the rows that need no training."""
    page = io.StringIO()
    out = csv.DictWriter(page, CSV_COLUMNS)
    out.writeheader()
    for table in tables:
        common = {"horizon": table.horizon, "data": table.fingerprint, "metric_version": table.metric_version}
        for row in table.rows:
            out.writerows({**common, **line} for line in _csv_lines(row))
        for name, values in table.references.items():
            shown = [metric for metric in METRICS if metric in values]
            out.writerows({**common, "experiment": name, "metric": m, "mean": values[m]} for m in shown)
    return page.getvalue()


def _csv_lines(row: Row) -> Iterator[dict[str, Any]]:
    for metric, found in row.metrics.items():
        line = {"experiment": row.experiment, "metric": metric, **asdict(found)}
        if metric in row.difference:
            line |= {f"difference_{name}": value for name, value in asdict(row.difference[metric]).items()}
        yield {**line, "published": _published(row.experiment, metric)}


def _published(experiment: str, metric: str) -> float | None:
    name = COLUMNS[metric][1] if metric in COLUMNS else ""
    return getattr(PUBLISHED[experiment], name) if name and experiment in PUBLISHED else None


def to_html(folder: Location, tables: Sequence[Table], trials: Sequence[TrialResult]) -> str:
    """One page that needs nothing else, not even a network."""
    body = [f"<h1>{html.escape(folder.name)}</h1>"]
    body += [_html_table(table) for table in tables]
    failures = [f"<li>{html.escape(t.name)}: {html.escape(t.failure)}</li>" for t in trials if t.failure]
    body += ["<h2>Not finished</h2><ul>", *failures, "</ul>"] if failures else []
    body += [f"<p class=note>{html.escape(FOOTNOTE)}</p>", *_draw_curves(folder, trials)]
    return _PAGE.format(title=html.escape(folder.name), body="\n".join(body))


def _html_table(table: Table) -> str:
    heads = ["experiment", *(h for h, *_ in COLUMNS.values()), "vs baseline: position", "vs baseline: change %",
             "published (pos / acc / change)", "n", "time", "cost"]  # fmt: skip
    lines = ["".join(f"<th>{html.escape(head)}</th>" for head in heads)]
    for row in table.rows:
        cells = [*_cells(row)[:-2], *_differences(row), _published_text(row.experiment), str(row.trials),
                 format_duration(row.seconds), "" if row.cost_usd is None else f"${row.cost_usd:.2f}"]  # fmt: skip
        lines.append("".join(f"<td>{html.escape(cell)}</td>" for cell in cells))
    for name, values in table.references.items():
        cells = [name, *(_reference(values, metric) for metric in COLUMNS)]
        cells += [""] * (len(heads) - len(cells))
        lines.append("".join(f"<td class=reference>{html.escape(cell)}</td>" for cell in cells))
    rows = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f"<h2>{html.escape(title_of(table))}</h2>\n<table>{rows}</table>"


def _differences(row: Row) -> list[str]:
    shown = ("metric/position_mae", "metric/action_change_acc")
    return [format_statistic(row.difference.get(metric), metric) for metric in shown]


def _published_text(experiment: str) -> str:
    found = PUBLISHED.get(experiment)
    if found is None:
        return ""
    mark = "" if found.epochs == 2 else f" ({found.epochs} epoch)"
    return f"{found.position_mae} / {100 * found.action_acc:.1f} / {100 * found.action_change_acc:.1f}{mark}"


def _draw_curves(folder: Location, trials: Sequence[TrialResult]) -> list[str]:
    import plotly.graph_objects as go

    parts: list[str] = []
    history = {trial.name: _read_history(folder / trial.name) for trial in trials}
    for name in CURVES:
        figure = go.Figure(layout={"title": name, "height": 380, "xaxis_title": "step", "template": "simple_white"})
        for trial in trials:
            rows = [(row["step"], row[name]) for row in history[trial.name] if row.get(name) is not None]
            if rows:
                steps, values = zip(*rows, strict=True)
                figure.add_scatter(
                    x=steps, y=values, name=trial.name, mode="lines+markers" if len(rows) < 9 else "lines"
                )
        parts.append(figure.to_html(full_html=False, include_plotlyjs=not parts))
    return ["<h2>Learning curves</h2>", *parts]


def _read_history(run: Location) -> list[dict[str, Any]]:
    try:
        return read_metrics(run)
    except UserError:  # one folder must not cost the report
        return []


_PAGE = """<!doctype html>
<html lang=en><head><meta charset=utf-8><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1250px; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
th, td {{ padding: .35rem .7rem; text-align: right; border-bottom: 1px solid #ddd }}
th:first-child, td:first-child {{ text-align: left }}
.reference {{ color: #777; font-style: italic }} .note {{ color: #555; max-width: 60rem }}
</style></head><body>
{body}
</body></html>
"""
