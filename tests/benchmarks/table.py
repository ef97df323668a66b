"""The benchmark's rows as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table

from tests.benchmarks.row import Row
from worldmodel.machine.device import describe_device
from worldmodel.run.record import read_commit


def make_table(rows: Sequence[Row]) -> Table:
    """A line per row; a goal that is missed stands in red."""
    table = Table(box=box.SIMPLE_HEAD, caption=_describe_machine(), caption_justify="left")
    for name, justify in _COLUMNS.items():
        table.add_column(name, justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*_cells(row))
    for row in rows:
        if row.note:
            table.caption = f"{table.caption}\n{row.area}, {row.measured}: {row.note}"
    return table


def write_json(rows: Sequence[Row], path: Path) -> None:
    """The rows, and where and when they were measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**describe_run(), "rows": [row.as_json() for row in rows]}, indent=1) + "\n")


def describe_run() -> dict[str, Any]:
    """Machine, code and time."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"machine": describe_device(torch.device("cpu")), "commit": read_commit(), "time": now}


_COLUMNS: dict[str, Any] = {
    "what": "left",
    "measured": "left",
    "value": "right",
    "unit": "left",
    "against": "left",
    "its value": "right",
    "ratio": "right",
    "rounds": "right",
    "CPU s": "right",
    "wall s": "right",
    "goal": "left",
}


def _cells(row: Row) -> list[str]:
    low_high = "" if row.ratio_range is None else f"{row.ratio_range[0]:.3g}-{row.ratio_range[1]:.3g}"
    return [
        row.area,
        row.measured,
        _format(row.value),
        row.unit,
        row.against or "",
        _format(row.value_against),
        "" if row.ratio is None else f"{row.ratio:.3g}x",
        low_high,
        _format(row.cpu_seconds),
        _format(row.wall_seconds),
        _describe_goal(row),
    ]


def _describe_goal(row: Row) -> str:
    if row.goal is None:
        return ""
    return f"[green]{row.goal}: holds[/green]" if row.holds else f"[bold red]{row.goal}: missed[/bold red]"


def _format(number: float | None) -> str:
    """Three digits, thousands apart."""
    if number is None:
        return ""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def _describe_machine() -> str:
    found = describe_device(torch.device("cpu"))
    gib = found["memory_bytes"] / 2**30
    return f"{found['name']}, {found['cores']} cores, {gib:.0f} GiB; torch {found['torch']}; commit {read_commit()}"
