"""The tables of a grid's page, as HTML."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterator, Mapping, Sequence
from urllib.parse import quote

from tune.columns import (
    ACTION,
    CHANGE,
    ENTROPY,
    NEAR,
    POSITION,
    PREVIOUS,
    SHORT,
    SHORTER,
    Column,
    hide,
    shorten_commit,
)
from tune.export import describe_trial
from tune.results import Row, Statistic, Table, TrialResult
from worldmodel.film.page import FILM
from worldmodel.run.card_page import CARD_PAGE
from worldmodel.run.reporter import format_duration, format_usd

MEAN, DIFFERENCE, PUBLISHED = "mean ±", "difference", "published"
Groups = Sequence[tuple[Column, tuple[str, ...]]]
"""Metrics of a result table, and what it shows of each."""
PARTS = {
    POSITION: (MEAN, DIFFERENCE, PUBLISHED),
    NEAR: (MEAN,),
    CHANGE: (MEAN, DIFFERENCE, PUBLISHED),
    PREVIOUS: (MEAN,),
    ENTROPY: (MEAN,),
    ACTION: (MEAN, PUBLISHED),
}
TESTED = (POSITION, CHANGE, ENTROPY)
ENDS = ("n", "time")
TRIAL_HEADS = (
    "trial", "seed", "state", "steps", POSITION.heading, CHANGE.heading, "time", "estimated", "training", "validation",
    "cost", "estimated", "commit", "card",
)  # fmt: skip


def render_table(table: Table) -> str:
    """Rows with their statistics, then those that need no training."""
    groups = _choose_groups(table)
    over = "".join(f'<th class="first" colspan="{len(parts)}">{column.heading}</th>' for column, parts in groups)
    parts = [_cell(part, "first" * (not place), "th") for _, names in groups for place, part in enumerate(names)]
    ends = [_cell(name, "first" * (name == ENDS[0]), "th") for name in ENDS]
    head = (
        f'<tr><th></th>{over}<th class="first" colspan="{len(ENDS)}">per trial</th></tr>'
        f"<tr><th>{'trial' if table.stopped_early else 'experiment'}</th>{''.join(parts + ends)}</tr>"
    )
    rows = [_render_row(row, table, groups) for row in table.rows]
    rows += [_render_reference(name, values, groups) for name, values in table.references.items()]
    return _wrap(head, rows)


def _choose_groups(table: Table) -> Groups:
    """Without columns that would be empty, and without "previous" where it is the same as "change"."""

    def is_kept(part: str, metric: Column) -> bool:
        if part == PUBLISHED:
            return any(metric.format_published(row.experiment) for row in table.rows)
        return part != DIFFERENCE or any(row.difference for row in table.rows)

    metrics = [metric for metric in PARTS if table.horizon > 1 or metric is not PREVIOUS]
    return [(metric, tuple(part for part in PARTS[metric] if is_kept(part, metric))) for metric in metrics]


def _render_row(row: Row, table: Table, groups: Groups) -> str:
    cells = [_cell(row.names[0] if table.stopped_early else row.experiment)]
    for column, parts in groups:
        shown = _show(row, column)
        cells += [shown[part] for part in parts]
    values = (str(row.trials), format_duration(row.seconds))
    cells += [_cell(value, "first" * (not place)) for place, value in enumerate(values)]
    return f"<tr>{''.join(cells)}</tr>"


def _show(row: Row, column: Column) -> dict[str, str]:
    found, difference = row.metrics.get(column.metric), row.difference.get(column.metric)
    published = column.format_published(row.experiment)
    mark = "*" if published and row.experiment in SHORTER else ""
    return {
        MEAN: _cell(_show_mean(found, column), "first main"),
        DIFFERENCE: _cell(column.format_difference(difference), _judge(difference, column)),
        PUBLISHED: _cell(published + mark, "small"),
    }


def _show_mean(found: Statistic | None, column: Column) -> str:
    """Mean and interval over seeds; in a second line the interval over games."""
    if column in (NEAR, ENTROPY, ACTION):
        return column.format(found.mean if found else None)
    return "\n".join(text for text in (column.format_statistic(found), column.format_games(found)) if text)


def render_test(table: Table) -> str:
    """The rows on the test games; empty where there are none."""
    rows = [row for row in table.rows if row.test]
    if not rows:
        return ""
    heads = ["experiment", *(f"{column.heading}{part}" for column in TESTED for part in (" ±", ", difference"))]
    lines = []
    for row in rows:
        cells = [_cell(row.experiment)]
        for column in TESTED:
            cells.append(_cell(_show_mean(row.test.get(column.metric), column), "first main"))
            cells.append(_cell(column.format_difference(row.test_difference.get(column.metric))))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return _wrap(f"<tr>{''.join(_cell(head, kind='th') for head in heads)}</tr>", lines)


def _judge(found: Statistic | None, column: Column) -> str:
    """Better or worse where the correction leaves a difference; else neither."""
    if found is None or not found.is_shown:
        return ""
    return "better" if (found.mean < 0) == column.is_better_small else "worse"


def _render_reference(name: str, values: Mapping[str, float], groups: Groups) -> str:
    cells = [_cell(SHORT.get(name, name))]
    for column, parts in groups:
        cells += [
            _cell(hide(column, name, column.format(values.get(column.metric))), "first"),
            *[_cell("")] * (len(parts) - 1),
        ]
    cells += [_cell("", "first"), *[_cell("")] * (len(ENDS) - 1)]
    return f'<tr class="reference">{"".join(cells)}</tr>'


def render_trials(trials: Sequence[TrialResult], films: Collection[str] = ()) -> str:
    """Every trial, with its card, and its film where it is among `films` (names of trials)."""
    heads = (*TRIAL_HEADS, *(["film"] if films else []))
    head = f"<tr>{''.join(_cell(name, kind='th') for name in heads)}</tr>"
    return _wrap(head, [f"<tr>{''.join(_trial_cells(trial, films))}</tr>" for trial in trials])


def _trial_cells(trial: TrialResult, films: Collection[str]) -> Iterator[str]:
    told, values = describe_trial(trial), trial.values
    state = "stopped early" if trial.is_stopped_early else told["state"] or "not started"
    yield _cell(trial.name)
    yield _cell(str(trial.seed))
    yield _cell(state, "bad" if trial.failure else "")
    yield _cell(f"{told['step']:,} of {told['total_steps'] or told['step']:,}" if trial.record else "")
    for column in (POSITION, CHANGE):
        yield _cell(column.format(values.get(column.metric)))
    for name in ("seconds", "estimated_seconds", "seconds_training", "seconds_validation"):
        yield _cell(format_duration(told[name]) if told[name] else "", "small" * (name != "seconds"))
    yield _cell(_format_cost(told["cost_usd"]))
    yield _cell(_format_cost(told["estimated_cost_usd"]), "small")
    yield _cell(shorten_commit(told["commit"] or ""), "small")
    yield _link(f"{trial.name}/{CARD_PAGE}", "card") if told["card"] else _cell("")
    if films:
        yield _link(f"{trial.name}/{FILM}", "film") if trial.name in films else _cell("")


def _link(path: str, text: str) -> str:
    return f'<td><a href="{html.escape(link_to(path))}">{text}</a></td>'


def link_to(path: str) -> str:
    """An address below the report's own folder; a name with a colon is no scheme."""
    return f"./{quote(path)}"


def _format_cost(dollars: float | None) -> str:
    return "" if dollars is None else format_usd(dollars)


def _wrap(head: str, rows: Sequence[str]) -> str:
    body = "\n".join(rows)
    return f'<div class="wide"><table><thead>{head}</thead>\n<tbody>{body}</tbody></table></div>'


def _cell(text: str, style: str = "", kind: str = "td") -> str:
    named = f' class="{style}"' if style else ""
    return f"<{kind}{named}>{html.escape(text)}</{kind}>"
