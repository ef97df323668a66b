"""`worldmodel compare`: two runs side by side."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional

from worldmodel.cli.runs import RunVerb, StorageVerb
from worldmodel.cli.verb import Result, as_result, metavar

SHOWN = (
    "metric/position_mae", "metric/action_change_acc_both", "metric/action_ce", "metric/position_mae_no_teleports",
    "metric/action_acc", "metric/velocity_mae", "metric/damage_mae", "loss/total",
)  # fmt: skip
"""Metrics of the table; `--json` has all."""
WIDTH = 120
"""Columns of the tables."""


@dataclass(frozen=True, kw_only=True)
class Compare(StorageVerb):
    """Show what differs between two runs: settings, code, data, results, time and cost."""

    first: Annotated[Positional[str], metavar("RUN")]
    """A run's folder or URI, or its name under --storage."""
    second: Annotated[Positional[str], metavar("RUN")]
    """The other's."""

    def run(self) -> Result:
        from worldmodel.run.comparison import compare_runs

        places = (RunVerb(name=name, storage=self.storage).find()[0] for name in (self.first, self.second))
        found = as_result(compare_runs(*places))
        return {**found, "baselines": {name: dict(rows) for name, rows in found["baselines"].items()}}

    def render(self, result: Result) -> str:
        from rich.console import Console

        page = io.StringIO()
        console = Console(file=page, width=WIDTH)
        for part in _render_parts(result):
            console.print(part, markup=False, end="\n" if isinstance(part, str) else "\n\n")
        return page.getvalue().rstrip()


def _render_parts(result: Result) -> Iterator[Any]:
    first, second = (str(place).rsplit("/", 1)[-1] for place in result["runs"])
    heads = (first, second) if first != second else result["runs"]
    yield from (f"warning: {text}" for text in result["warnings"])
    for title, name in (("settings that differ", "settings"), ("state, code and data that differ", "facts")):
        yield _render_table(title, heads, result[name].items()) if result[name] else f"{title}: none\n"
    yield _render_table(
        f"results ({' | '.join(result['sources'])})", heads, _choose_results(result), is_number=True,
        intervals=result["intervals"],
    )  # fmt: skip
    if result["intervals"]:
        yield "[ ]: 95 % interval over games of the difference (paired bootstrap); it says nothing of other seeds\n"
    yield _render_table("seconds and dollars", heads, result["effort"].items(), is_number=True)


def _choose_results(result: Result) -> Iterator[tuple[str, Any]]:
    """The shown metrics, with the rows that need no training below the two that decide."""
    for name in (name for name in SHOWN if name in result["results"]):
        yield name, result["results"][name]
        if name in SHOWN[:2]:
            yield from ((f"  {row}", values[name]) for row, values in result["baselines"].items() if name in values)


def _render_table(
    title: str, heads: Any, rows: Iterable[tuple[str, Any]], *, is_number: bool = False, intervals: Any = None
) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False)
    for place, head in enumerate(("", *heads, *(["difference"] if is_number else []))):
        table.add_column(Text(head), justify="right" if is_number and place else "left", overflow="fold")
    for name, (one, other) in rows:
        known = is_number and one is not None and other is not None
        ends = (intervals or {}).get(name)
        reach = f" [{ends[0]:+.4g}, {ends[1]:+.4g}]" if ends else ""
        cells = (
            name,
            _show(one),
            _show(other),
            *([f"{other - one:+.4g}{reach}" if known else ""] if is_number else []),
        )
        table.add_row(*map(Text, cells))
    return table


def _show(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) and abs(value) >= 0.001 else str(value)
