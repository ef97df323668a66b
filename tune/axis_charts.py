"""Charts of a grid's axes: each trial as a line through its values, and the effect of one axis at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tune.axes import shorten, show_value
from tune.charts import COLORS, LAYOUT
from tune.columns import CHANGE, POSITION, Column
from tune.results import TrialResult

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

SHOWN = (POSITION, CHANGE)
LOGARITHMIC = 8.0
"""Ratio of the largest to the smallest value from which an axis is drawn logarithmically."""


def draw_axes(trials: Sequence[TrialResult]) -> list[Figure]:
    """The charts of the trials that have axes and results; none if no axis has two values."""
    known = [t for t in trials if t.record and t.record.axes and t.values and not t.is_stopped_early]
    keys = {key: None for trial in known for key in _axes(trial)}
    values = {key: [_axes(trial).get(key) for trial in known] for key in keys}
    values = {key: found for key, found in values.items() if len({repr(value) for value in found}) > 1}
    return [_draw_parallel(values, known), _draw_effects(values, known)] if values else []


def _axes(trial: TrialResult) -> Mapping[str, Any]:
    return trial.record.axes if trial.record else {}


def _draw_parallel(values: Mapping[str, Sequence[Any]], trials: Sequence[TrialResult]) -> Figure:
    import plotly.graph_objects as go

    parts = [_make_dimension(shorten(key, values), found) for key, found in values.items()]
    for column in SHOWN:
        measured = _measure(column, trials)
        if any(value is not None for value in measured):
            parts.append({"label": column.heading, "values": [math.nan if v is None else v for v in measured]})
    line = {"color": parts[-1]["values"], "colorscale": "Viridis"}
    return go.Figure(go.Parcoords(dimensions=parts, line=line)).update_layout(LAYOUT, height=340)


def _make_dimension(label: str, found: Sequence[Any]) -> dict[str, Any]:
    """One vertical line of the chart: numbers to scale, other values in even steps."""
    if not all(map(_is_number, found)):
        names = list(dict.fromkeys(map(show_value, found)))
        places = [names.index(show_value(value)) for value in found]
        return {"label": label, "values": places, "tickvals": list(range(len(names))), "ticktext": names}
    if not _is_logarithmic(found):
        return {"label": label, "values": list(found)}
    ticks = sorted(set(found)) if len(set(found)) < 9 else [min(found), max(found)]
    logs = {"values": [math.log10(v) for v in found], "tickvals": [math.log10(v) for v in ticks]}
    return {"label": label, **logs, "ticktext": [f"{tick:g}" for tick in ticks]}


def _draw_effects(values: Mapping[str, Sequence[Any]], trials: Sequence[TrialResult]) -> Figure:
    """A panel for each axis and metric: all trials as points, and the mean at each value that several share."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=len(SHOWN), cols=len(values), shared_xaxes=True, vertical_spacing=0.06)
    for row, column in enumerate(SHOWN, 1):
        measured = _measure(column, trials)
        for place, (key, found) in enumerate(values.items(), 1):
            is_number = all(map(_is_number, found))
            points = [
                (x if is_number else show_value(x), y) for x, y in zip(found, measured, strict=True) if y is not None
            ]
            dots = {"mode": "markers", "marker": {"size": 6, "opacity": 0.55, "color": COLORS[0]}}
            figure.add_trace(go.Scatter(x=[x for x, _ in points], y=[y for _, y in points], **dots), row=row, col=place)
            means = _average(points)
            line = {"mode": "lines+markers", "line": {"color": COLORS[5]}, "name": "mean"}
            if len(means) < len(points):
                figure.add_trace(go.Scatter(x=list(means), y=list(means.values()), **line), row=row, col=place)
            figure.update_xaxes(type=_type_of(found), row=row, col=place)
            figure.update_yaxes(title_text=column.heading if place == 1 else "", row=row, col=place)
            figure.update_xaxes(title_text=shorten(key, values), row=len(SHOWN), col=place)
    return figure.update_layout(LAYOUT, height=460, showlegend=False)


def _average(points: Sequence[tuple[Any, float]]) -> dict[Any, float]:
    """The mean at each value, in order."""
    groups: dict[Any, list[float]] = {}
    for x, y in points:
        groups.setdefault(x, []).append(y)
    order = sorted(groups) if all(map(_is_number, groups)) else list(groups)
    return {x: sum(groups[x]) / len(groups[x]) for x in order}


def _measure(column: Column, trials: Sequence[TrialResult]) -> list[float | None]:
    found = [trial.values.get(column.metric) for trial in trials]
    return [None if value is None or not math.isfinite(value) else value * column.factor for value in found]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_logarithmic(found: Sequence[Any]) -> bool:
    return bool(min(found) > 0 and max(found) / min(found) >= LOGARITHMIC)


def _type_of(found: Sequence[Any]) -> str:
    if not all(map(_is_number, found)):
        return "category"
    return "log" if _is_logarithmic(found) else "linear"
