"""The charts of a grid's report, drawn by plotly inside the page: nothing is fetched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from tune.columns import CHANGE, POSITION, SHORT, Column
from tune.results import HURDLES, Table, TrialResult

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#5a4fcf", "#7a7a7a")
"""One per experiment; told apart by most colour-blind eyes (Okabe and Ito, 2008)."""
CURVES = {
    "batch/loss": ("training loss", 1.0),
    "val_metric/position_mae": ("validation position MAE", 1.0),
    "val_metric/action_change_acc_both": ("validation change %", 100.0),
}
"""Metric of `metrics.jsonl` to title and the factor it is shown with."""
POINTS = 60
"""Most points of a curve: a noisier one is averaged over neighbouring steps."""
REFERENCE_LINES = {POSITION.metric: ("persistence", "kinematic"), CHANGE.metric: (HURDLES[CHANGE.metric][1],)}
"""Which rows without training a panel shows as lines."""
FAR = 2.0
"""A line farther away than so many widths of all intervals would squeeze them: it becomes an arrow."""
LAYOUT: dict[str, Any] = {
    "template": "simple_white", "font": {"family": "system-ui, sans-serif", "size": 13},
    "margin": {"l": 80, "r": 30, "t": 55, "b": 45}, "hoverlabel": {"namelength": -1},
}  # fmt: skip


class Page:
    """Turns figures into HTML; the first brings plotly's own code along."""

    def __init__(self) -> None:
        self._count = 0

    def render(self, figure: Figure) -> str:
        """A `<div>` with its script."""
        self._count += 1
        return str(
            figure.to_html(
                full_html=False, include_plotlyjs=self._count == 1, div_id=f"chart{self._count}",
                config={"displaylogo": False, "displayModeBar": False, "responsive": True},
            )
        )  # fmt: skip


def pick_colors(trials: Sequence[TrialResult]) -> dict[str, str]:
    """Experiment to colour, the same in all charts."""
    return dict(zip(dict.fromkeys(trial.experiment for trial in trials), cycle(COLORS)))


def draw_intervals(table: Table, trials: Sequence[TrialResult], colors: Mapping[str, str]) -> Figure:
    """Mean, interval and seeds of each row: position MAE and change accuracy, with what needs no training as lines."""
    from plotly.subplots import make_subplots

    titles = ["position MAE (smaller is better)", "change accuracy in % (larger is better)"]
    figure = make_subplots(cols=2, shared_yaxes=True, horizontal_spacing=0.06, subplot_titles=titles)
    by_name = {trial.name: trial for trial in trials}
    for place, column in enumerate((POSITION, CHANGE), 1):
        for row in table.rows:
            seeds = [by_name[name].values.get(column.metric) for name in row.names]
            marks = _draw_row(row.experiment, column, row.metrics.get(column.metric), seeds, colors)
            for mark in marks:
                figure.add_trace(mark, row=1, col=place)
        _draw_lines(figure, place, column, table)
    figure.update_yaxes(range=[len(table.rows) - 0.3, -0.6], type="category", showgrid=True)
    figure.update_xaxes(showgrid=True, nticks=7)
    for place, column in enumerate((POSITION, CHANGE), 1):
        figure.update_xaxes(range=_find_range(table, column), row=1, col=place)
    figure.update_layout(LAYOUT, height=140 + 40 * len(table.rows), showlegend=False)
    for title in figure.layout.annotations[: len(titles)]:
        title.update(font_size=13, yshift=22)
    return figure


def _draw_row(name: str, column: Column, found: Any, seeds: Sequence[float | None], colors: Mapping[str, str]) -> list:
    import plotly.graph_objects as go

    if found is None:
        return []
    half = None if found.half_width is None else [found.half_width * column.factor]
    dots = [value * column.factor for value in seeds if value is not None]
    text = f"{name}: {column.format_statistic(found)} (n={found.n})"
    return [
        go.Scatter(
            x=dots, y=[name] * len(dots), mode="markers", hoverinfo="skip",
            marker={"size": 13, "symbol": "line-ns-open", "color": colors[name], "line": {"width": 1.5}},
        ),
        go.Scatter(
            x=[found.mean * column.factor], y=[name], mode="markers", hovertext=text, hoverinfo="text",
            marker={"size": 11, "color": colors[name]},
            error_x={"type": "data", "array": half, "thickness": 2, "width": 6} if half else None,
        ),
    ]  # fmt: skip


def _find_range(table: Table, column: Column) -> tuple[float, float] | None:
    """Room for every interval, for the lines that are near enough, and for their names; None: nothing is finite."""
    ends = []
    for found in (row.metrics[column.metric] for row in table.rows if column.metric in row.metrics):
        ends += [found.mean - (found.half_width or 0), found.mean + (found.half_width or 0)]
    known = [end * column.factor for end in ends if np.isfinite(end)]
    if not known:
        return None
    low, high = min(known), max(known)
    reach = FAR * max(high - low, 0.05 * abs(high))
    lines = (table.references.get(name, {}).get(column.metric) for name in REFERENCE_LINES[column.metric])
    near = [at * column.factor for at in lines if at is not None and low - reach < at * column.factor < high + reach]
    low, high = min([low, *near]), max([high, *near])
    room = 0.12 * (high - low) or 0.1
    return low - room, high + room


def _draw_lines(figure: Figure, place: int, column: Column, table: Table) -> None:
    """The rows without training: lines, or names at the edge behind which they lie."""
    reach = _find_range(table, column)
    found = {name: table.references.get(name, {}).get(column.metric) for name in REFERENCE_LINES[column.metric]}
    known = sorted((value * column.factor, name) for name, value in found.items() if value is not None)
    if reach is None:
        return
    names = {at: f"{SHORT.get(name, name)} {column.format(found[name])}" for at, name in known}
    font = {"size": 11, "color": "#666"}
    for at in (at for at in names if reach[0] < at < reach[1]):
        line, text = {"dash": "dot", "color": "#888", "width": 1.5}, {"text": names[at], "font": font}
        figure.add_vline(x=at, line=line, row=1, col=place, annotation=text, annotation_position="top")
    below, above = ([names[at] for at in names if (at <= reach[0], at >= reach[1])[side]] for side in (0, 1))
    for side, labels, arrow in (("left", below, "← {}"), ("right", above, "{} →")):
        if labels:
            figure.add_annotation(
                text=arrow.format(", ".join(labels)), font=font, showarrow=False, row=1, col=place,
                x=reach[side == "right"], xanchor=side, y=0, yref="y domain", yanchor="bottom",
            )  # fmt: skip


def draw_curves(
    history: Mapping[str, Sequence[Mapping[str, Any]]], trials: Sequence[TrialResult], colors: Mapping[str, str]
) -> Figure:
    """Learning curves: one colour per experiment, a thin line per seed; lookahead dashed, for it is another task.

    Args:
        history: trial to the rows of its `metrics.jsonl`.
        trials: the grid's, in the order of the legend.
        colors: as `pick_colors` gives them.
    """
    from plotly.subplots import make_subplots

    figure = make_subplots(cols=len(CURVES), horizontal_spacing=0.06, subplot_titles=[t for t, _ in CURVES.values()])
    told: set[str] = set()
    for trial in trials:
        for place, line in _draw_trial(trial, history.get(trial.name, ()), colors[trial.experiment]):
            figure.add_trace(line.update(showlegend=trial.experiment not in told), row=1, col=place)
            told.add(trial.experiment)
    figure.update_xaxes(title_text="step", nticks=6, rangemode="tozero")
    figure.update_layout(LAYOUT, height=430, legend={"orientation": "h", "y": -0.2, "itemwidth": 40})
    figure.update_annotations(font_size=13)
    return figure


def _draw_trial(trial: TrialResult, rows: Sequence[Mapping[str, Any]], color: str) -> Iterator[tuple[int, Any]]:
    import plotly.graph_objects as go

    is_ahead = (trial.evaluation or {}).get("horizon", 1) > 1
    for place, (metric, (_, factor)) in enumerate(CURVES.items(), 1):
        points = [(row["step"], row[metric] * factor) for row in rows if row.get(metric) is not None]
        if points:
            steps, values = thin(points)
            yield place, go.Scatter(
                x=steps, y=values, name=trial.experiment, legendgroup=trial.experiment, opacity=0.8,
                mode="lines+markers" if len(steps) < 9 else "lines", marker={"size": 5},
                line={"color": color, "width": 1.5, "dash": "dash" if is_ahead else "solid"},
                hovertemplate=f"{trial.name}: %{{y:.4g}} at step %{{x}}<extra></extra>",
            )  # fmt: skip


def thin(points: Sequence[tuple[int, float]]) -> tuple[list[float], list[float]]:
    """At most `POINTS` points: means of as many runs of neighbours."""
    groups = np.array_split(np.array(points, dtype=float), min(POINTS, len(points)))
    return [float(group[:, 0].mean()) for group in groups], [float(group[:, 1].mean()) for group in groups]
