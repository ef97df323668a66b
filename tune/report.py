"""A grid's results for people: tables on the terminal, and the files of the report."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from tune.columns import CHANGE, ENTROPY, NEAR, POSITION, SHORT, hide, notes_of, title_of
from tune.export import to_csv, to_json
from tune.page import to_html
from tune.record import GridRecord, read_grid
from tune.results import Row, Table, TrialResult, make_tables
from tune.verdict import describe_verdicts
from worldmodel.errors import UserError
from worldmodel.run.reporter import format_duration
from worldmodel.storage import Location

REPORT, CSV, JSON = "report.html", "results.csv", "results.json"
WIDE = 112
"""Columns of a terminal from which a table is whole."""
LEFT_OUT = ("no tele-\nports", "action\nCE", "published\npos/change", "time")
"""What a narrower terminal leaves out."""
HEADINGS = (
    "experiment", "position\nMAE", "difference\n", "no tele-\nports", "change\n%", "difference\n", "action\nCE",
    "published\npos/change", "n", "time",
)  # fmt: skip


def render_terminal(tables: Sequence[Table], trials: Sequence[TrialResult]) -> Group:
    """The tables with their notes, the answers, and what failed."""
    parts: list[Any] = []
    for table in tables:
        parts += [_Table(table), *(Text(note, style="dim") for note in notes_of(table))]
        parts += [Text(f"not better: {text}", style="yellow") for text in table.shortfalls]
        parts.append(Text())
    for title, sentences in describe_verdicts(tables):
        parts += [Text(title, style="bold"), *(Padding(Text(sentence), (0, 0, 0, 2)) for sentence in sentences)]
    failures = [f"not finished: {trial.name}: {trial.failure}" for trial in trials if trial.failure]
    return Group(*parts, *(Text(line, style="red") for line in failures))


@dataclass(frozen=True)
class _Table:
    """A table with as many columns as the terminal has room for."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield _render_table(self.table, LEFT_OUT if options.max_width < WIDE else ())


def _render_table(table: Table, left_out: Collection[str]) -> RichTable:
    shown = RichTable(
        title=title_of(table), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False
    )
    kept = [place for place, heading in enumerate(HEADINGS) if heading not in left_out]
    for number, heading in enumerate(HEADINGS[place] for place in kept):
        is_step = table.stopped_early and heading == "n"
        shown.add_column("steps" if is_step else heading, justify="right" if number else "left", no_wrap=True)
    for row in table.rows:
        cells = [*_cells(row, table)]
        shown.add_row(*(cells[place] for place in kept))
    shown.add_section()
    for name, values in table.references.items():
        cells = [column.format(values.get(column.metric)) for column in (POSITION, NEAR, CHANGE, ENTROPY)]
        position, near, change, entropy = cells
        cells = [SHORT.get(name, name), position, "", near, change, "", hide(ENTROPY, name, entropy), "", "", ""]
        shown.add_row(*(cells[place] for place in kept), style="dim")
    return shown


def _cells(row: Row, table: Table) -> Iterator[str]:
    yield row.names[0] if table.stopped_early else row.experiment
    for column in (POSITION, CHANGE):
        yield column.format_statistic(row.metrics.get(column.metric))
        yield column.format_difference(row.difference.get(column.metric))
        if column is POSITION:
            yield NEAR.format(row.metrics[NEAR.metric].mean if NEAR.metric in row.metrics else None)
    yield ENTROPY.format(row.metrics[ENTROPY.metric].mean if ENTROPY.metric in row.metrics else None)
    published = [column.format_published(row.experiment) for column in (POSITION, CHANGE)]
    yield "/".join(published) if all(published) else ""
    yield str(row.steps if table.stopped_early else row.trials)
    yield format_duration(row.seconds)


def write_report(folder: Location, trials: Sequence[TrialResult]) -> list[Table]:
    """Write the report, CSV and JSON of a grid into its folder; returns its tables.

    The report's headline is the grid's own record, as it lies in the folder by then.
    """
    tables = make_tables(trials)
    (folder / JSON).write_text(json.dumps(to_json(tables, trials), indent=1))
    (folder / CSV).write_text(to_csv(tables, trials))
    (folder / REPORT).write_text(to_html(folder, tables, trials, _find_grid(folder)))
    return tables


def _find_grid(folder: Location) -> GridRecord | None:
    try:
        return read_grid(folder)
    except UserError:  # none, or torn: it must not cost the report
        return None
