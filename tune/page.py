"""`report.html`: a grid's results as one page that needs nothing else, not even a network."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

from tune.axis_charts import draw_axes
from tune.charts import Page, draw_curves, draw_intervals, pick_colors
from tune.columns import FOOTNOTES, count_trials, notes_of, title_of
from tune.page_settings import render_settings
from tune.page_tables import render_table, render_test, render_trials
from tune.record import GridRecord
from tune.results import Table, TrialResult
from tune.verdict import describe_verdicts
from worldmodel.errors import UserError
from worldmodel.film.page import FILM
from worldmodel.run.page_style import STYLE
from worldmodel.run.record import State
from worldmodel.run.reporter import format_count, format_duration, format_usd
from worldmodel.run.tracking import read_metrics
from worldmodel.storage import Location

CURVE_NOTE = (
    "A thin line per seed, dashed where lookahead makes it another task. Training loss is averaged over neighbouring "
    "steps. A trial that was stopped early ends early."
)
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""What a browser lets the page do: run and draw what it brings along, fetch nothing."""
LONG = 32
"""Letters from which a fact has a line of its own."""


def to_html(
    folder: Location, tables: Sequence[Table], trials: Sequence[TrialResult], grid: GridRecord | None = None
) -> str:
    """The page. `grid`: the grid's own record, for its headline; None: there is none."""
    charts, colors = Page(), pick_colors(trials)
    body = [_heading(folder.name, 1), _render_verdict(tables, trials, grid), _render_facts(trials, grid)]
    for table in tables:
        body += [_heading(_capital(title_of(table))), render_table(table), *map(_paragraph, notes_of(table))]
        test = "" if table.stopped_early else render_test(table)
        body += [_heading("The same on the test games, on which nothing was chosen", 3), test] if test else []
        if not table.stopped_early:
            body.append(charts.render(draw_intervals(table, trials, colors)))
    body += [_heading("Axes"), *map(charts.render, figures)] if (figures := draw_axes(trials)) else []
    failures = [f"{trial.name}: {trial.failure}" for trial in trials if trial.failure]
    body += [_heading("Not finished"), _list(failures, style="bad")] if failures else []
    history = {trial.name: _read_history(folder / trial.name) for trial in trials}
    body += [_heading("Learning curves"), charts.render(draw_curves(history, trials, colors)), _paragraph(CURVE_NOTE)]
    films = [trial.name for trial in trials if (folder / trial.name / FILM).exists()]
    body += [
        _heading("Trials"),
        render_trials(trials, films),
        render_settings(folder, trials),
        _heading("What the words mean"),
        _list(FOOTNOTES, style="note"),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n<title>{html.escape(folder.name)}</title>\n'
        f"<style>{STYLE}</style></head><body>\n{chr(10).join(body)}\n</body></html>\n"
    )


def _render_verdict(tables: Sequence[Table], trials: Sequence[TrialResult], grid: GridRecord | None) -> str:
    """How many trials count, what beats no baseline, and the answers."""
    lines = [count_trials(trials), *_describe_state(grid)]
    full = [table for table in tables if not table.stopped_early]
    shortfalls = [f"not better: {text}" for table in full for text in table.shortfalls]
    if full and not shortfalls:
        lines.append("every row beats kinematic in position MAE and the most frequent next action in change accuracy")
    parts = [_list([_capital(line) for line in lines + shortfalls], style="verdict")]
    for title, sentences in describe_verdicts(tables):
        parts += [_heading(title, 3), _list([_capital(sentence) for sentence in sentences], style="verdict")]
    return "\n".join(parts)


def _describe_state(grid: GridRecord | None) -> Iterator[str]:
    if grid is None or grid.state in (State.CREATED, State.FINISHED):
        return
    yield f"the grid: {grid.state.value}" + (f": {grid.reason}" if grid.reason else "")
    if grid.resume_command and grid.state is not State.RUNNING:
        yield f"it goes on with: {grid.resume_command}"


def _render_facts(trials: Sequence[TrialResult], grid: GridRecord | None) -> str:
    """What ran, on what, when, how long, for how much."""
    facts = [*_list_grid_facts(grid), *_list_trial_facts(trials)]
    shown = (
        f"<div{' class=long' * (len(text) > LONG)}><dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd></div>"
        for name, text in sorted(facts, key=lambda fact: len(fact[1]) > LONG)
        if text
    )
    return f"<dl>{''.join(shown)}</dl>"


def _list_grid_facts(grid: GridRecord | None) -> Iterator[tuple[str, str]]:
    if grid is None:
        return
    yield "started", _format_time(grid.started)
    yield "ended", _format_time(grid.ended)
    yield "wall clock", _beside(grid.seconds or None, grid.estimated_seconds, format_duration)
    known = _beside(grid.cost_usd, grid.estimated_cost_usd, format_usd)
    yield "cost", known or "unknown: no price is set"
    yield "at once", f"{grid.at_once} trial{'s' * (grid.at_once != 1)}"
    yield "data", grid.blocks
    yield "commit", grid.commit or "no git checkout"
    yield "command", grid.command
    for note in grid.notes:
        yield "note", note


def _list_trial_facts(trials: Sequence[TrialResult]) -> Iterator[tuple[str, str]]:
    records = [trial.record for trial in trials if trial.record]
    devices = {str(record.device.get("gpu") or record.device.get("name") or "") for record in records}
    games = {trial.evaluation["games"] for trial in trials if trial.evaluation and "games" in trial.evaluation}
    yield "device", ", ".join(sorted(devices - {""}))
    yield "parameters", _range([record.parameters for record in records], format_count)
    yield "steps per trial", _range([record.total_steps for record in records], "{:,}".format)
    yield "validation games", _range([*games], "{:,}".format)
    tested = {(trial.find_part("test")).get("games") for trial in trials}
    yield "test games", _range([*tested], "{:,}".format) or "none"
    yield "time of all trials", format_duration(sum(record.seconds.total for record in records)) if records else ""


def _range(values: Sequence[int | None], show: Callable[[int], str]) -> str:
    known = [value for value in values if value]
    return " to ".join(dict.fromkeys((show(min(known)), show(max(known))))) if known else ""


def _beside(actual: float | None, estimate: float | None, show: Callable[[float], str]) -> str:
    """An amount with what was estimated."""
    if actual is None:
        return "" if estimate is None else f"estimated {show(estimate)}"
    if estimate is None or not actual:
        return show(actual)
    return f"{show(actual)} (estimated {show(estimate)})"


def _read_history(run: Location) -> list[dict[str, Any]]:
    try:
        return read_metrics(run)
    except UserError:  # one folder must not cost the report
        return []


def _format_time(when: datetime | None) -> str:
    return f"{when:%Y-%m-%d %H:%M} UTC" if when else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _heading(text: str, level: int = 2) -> str:
    return f"<h{level}>{html.escape(text)}</h{level}>"


def _paragraph(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'


def _list(lines: Sequence[str], style: str) -> str:
    items = (f"<li{' class=bad' * line.startswith('Not better')}>{html.escape(line)}</li>" for line in lines)
    return f'<ul class="{style}">{"".join(items)}</ul>'
