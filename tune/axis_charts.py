"""Charts of a grid's axes: each trial as a line through its values, and the effect of one axis at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
TICKS = 5
"""Most values that an axis names one by one."""


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
    """A line for each trial, coloured by its position MAE. As SVG: plotly's own chart needs WebGL."""
    import plotly.graph_objects as go
    from plotly.colors import sample_colorscale

    named = {shorten(key, values): found for key, found in values.items()}
    scales = {label: _Scale.of(found, TICKS) for label, found in named.items()}
    scales |= {column.heading: _Scale.of(_measure(column, trials), 2) for column in SHOWN}
    figure = go.Figure()
    shades = [0.5 if place is None else place for place in scales[POSITION.heading].places]
    for number, (trial, color) in enumerate(zip(trials, sample_colorscale("Viridis", shades), strict=True)):
        heights = [scale.places[number] for scale in scales.values()]
        line = go.Scatter(
            x=list(range(len(scales))), y=heights, mode="lines+markers", line={"color": color}, name=trial.name
        )
        figure.add_trace(line)
    for place, (label, scale) in enumerate(scales.items()):
        figure.add_vline(x=place, line={"color": "#888", "width": 1})
        figure.add_annotation(x=place, y=1.12, text=f"<b>{label}</b>", showarrow=False)
        for height, text in scale.ticks:
            figure.add_annotation(x=place, y=height, text=text, showarrow=False, xanchor="left", xshift=6)
    figure.update_xaxes(visible=False, range=[-0.15, len(scales) - 0.6])
    figure.update_yaxes(visible=False, range=[-0.08, 1.2])
    return figure.update_layout(LAYOUT, height=340, showlegend=False)


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """One vertical line of the parallel coordinates."""

    places: list[float | None]
    """Height of each trial's value, 0 to 1; None: it has none."""
    ticks: list[tuple[float, str]]

    @classmethod
    def of(cls, found: Sequence[Any], most: int) -> _Scale:
        """Numbers to scale, other values in even steps; at most `most` numbers are named, else the two ends."""
        known = list(dict.fromkeys(value for value in map(_plain, found) if value is not None))
        if not all(map(_is_number, known)):
            heights = {value: rank / max(1, len(known) - 1) for rank, value in enumerate(known)}
        elif not known:
            heights = {}
        else:
            rule = math.log if _is_logarithmic(known) else float
            low, high = rule(min(known)), rule(max(known))
            heights = {value: (rule(value) - low) / (high - low) if high > low else 0.5 for value in known}
        shown = known if len(known) <= most or not all(map(_is_number, known)) else [min(known), max(known)]
        texts = [(heights[v], f"{v:.4g}" if _is_number(v) else v) for v in shown]
        return cls(places=[heights.get(_plain(value)) for value in found], ticks=texts)


def _plain(value: Any) -> Any:
    return value if value is None or _is_number(value) else show_value(value)


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
