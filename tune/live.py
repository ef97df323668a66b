"""What a grid's trials are doing, read from their run folders while it runs."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table

from tune.variants import Trial
from worldmodel.errors import UserError
from worldmodel.progress import AGAIN_SECONDS, format_duration
from worldmodel.run.estimate import pack
from worldmodel.run.record import RunRecord, State
from worldmodel.run.reporter import format_count
from worldmodel.run.run_folder import LIVE, RECORD, describe_end, read_record
from worldmodel.storage import Location

REFRESH_SECONDS = 2.0
METRICS = {
    "action CE": "val_metric/action_ce", "change": "val_metric/action_change_acc_both",
    "position": "val_metric/position_mae",
}  # fmt: skip
"""Columns of the table, as many as fit behind those that every trial has."""
FIXED_WIDTH, METRIC_WIDTH = 50, 12
"""Columns of a terminal that the table takes beside a trial's name, and for each metric."""
ALL_LINES = 7
"""Lines of a terminal that are not for rows."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Trials, and how many of them run side by side."""

    folder: Location
    trials: Sequence[Trial]
    at_once: int = 1

    def read(self) -> dict[str, RunRecord | None]:
        """Trial to its record; None: it has not begun, or its record is being written."""
        return {trial.name: self._read(self.folder / trial.name) for trial in self.trials}

    def _read(self, location: Location) -> RunRecord | None:
        try:
            return read_record(location) if (location / RECORD).exists() else None
        except UserError:  # being written
            return None


@contextmanager
def show_live(grid: Grid) -> Iterator[None]:
    """While it lasts: a table on a terminal; elsewhere one line for each trial that ends, and one a minute."""
    console = Console(stderr=True)
    stop = threading.Event()
    work = _keep_table if console.is_terminal else _tell
    thread = threading.Thread(target=work, args=(grid, console, stop), name="live table", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _keep_table(grid: Grid, console: Console, stop: threading.Event) -> None:
    with Live(render(grid, console), console=console, refresh_per_second=1) as live:
        while True:
            is_last = stop.wait(REFRESH_SECONDS)
            live.update(render(grid, console))
            if is_last:
                return


def _tell(grid: Grid, console: Console, stop: threading.Event) -> None:
    told: set[str] = set()
    began, again = datetime.now(UTC), time.monotonic() + AGAIN_SECONDS
    while True:
        is_last = stop.wait(REFRESH_SECONDS)
        records = grid.read()
        for name, record in records.items():
            if record and record.ended and record.ended >= began and name not in told:
                told.add(name)
                _say(f"{name}: {describe_end(record)}")
        if is_last:
            return
        if time.monotonic() >= again:
            again += AGAIN_SECONDS
            _say("; ".join([count_states(grid, records), *describe_running(records)]))


def _say(text: str) -> None:
    with suppress(OSError):  # nobody reads it any more
        print(text, file=sys.stderr, flush=True)


def render(grid: Grid, console: Console) -> Table:
    """One row per trial, as many as the terminal has room for: those first that run."""
    records = grid.read()
    room = console.width - FIXED_WIDTH - max(map(len, records), default=0)
    metrics = list(METRICS.items())[: max(0, room // METRIC_WIDTH)]
    table = Table("trial", "state", "done", "loss", "targets/s", "eta", *dict(metrics), box=SIMPLE_HEAD)
    rows = list(records.items())
    if len(rows) > (most := max(1, console.height - ALL_LINES)):
        rows = sorted(rows, key=lambda row: _rank(row[1]))[:most]
    for name, record in rows:
        cells = describe_trial(record) if record else ("waiting", "", "", "", "")
        values = (record.metrics.get(metric) if record else None for _, metric in metrics)
        style = {State.FAILED: "red", State.FINISHED: "green"}.get(record.state, "") if record else "dim"
        table.add_row(name, *cells, *("" if value is None else f"{value:.4f}" for value in values), style=style)
    validated = dict.fromkeys(record.validated for record in records.values() if record and record.validated)
    more = [f"{len(records) - len(rows)} more trials"] if len(records) > len(rows) else []
    table.caption = "; ".join([count_states(grid, records), *more, *validated])
    return table


def _rank(record: RunRecord | None) -> int:
    if record is None:
        return 3
    return 0 if record.state in LIVE else 2 if record.state is State.FINISHED else 1


def describe_trial(record: RunRecord) -> tuple[str, str, str, str, str]:
    """State, part done, training loss, targets a second and the time left; the latter two of one that runs."""
    loss, pace = (record.metrics.get(name) for name in ("batch/loss", "speed/targets_per_second"))
    left, is_live = find_left(record), record.state in LIVE
    return (
        "validating" if left == 0 and is_live else record.state.value,
        f"{100 * record.step // record.total_steps}%" if record.total_steps else "",
        "" if loss is None else f"{loss:.4g}",
        format_count(pace) if pace is not None and is_live else "",
        format_duration(left) if left and is_live else "",
    )


def describe_running(records: dict[str, RunRecord | None], most: int = 8) -> list[str]:
    """A few words on each trial that runs."""
    running = [(name, describe_trial(r)) for name, r in records.items() if r and r.state in LIVE and r.step]
    return [
        f"{name} {done} loss {loss} {pace} targets/s {f'eta {left}' if left else state}"
        for name, (state, done, loss, pace, left) in running[:most]
    ]


def count_states(grid: Grid, records: dict[str, RunRecord | None]) -> str:
    """How many trials have ended and run, and the time left: "3 of 21 trials ended, 2 run, about 9m10s left"."""
    begun = [record for record in records.values() if record]
    running = [record for record in begun if record.state in LIVE]
    left = find_left_of_grid(begun, len(records), grid.at_once)
    told = f"{len(begun) - len(running)} of {len(records)} trials ended, {len(running)} run"
    return told if left is None else f"{told}, about {format_duration(left)} left"


def find_left(record: RunRecord) -> float | None:
    """Seconds that a run needs to its last step, at its mean pace so far; None: that is unknown."""
    if not record.step or not record.total_steps:
        return None
    spent = record.seconds.training + record.seconds.validation
    return spent * max(0, record.total_steps - record.step) / record.step


def find_left_of_grid(begun: Sequence[RunRecord], trials: int, at_once: int) -> float | None:
    """Seconds until the last trial ends; those that have not begun are taken to be like the others."""
    running = [(record, find_left(record)) for record in begun if record.state in LIVE]
    known = [(record, left) for record, left in running if left is not None]
    whole = [record.seconds.total for record in begun if record.state is State.FINISHED]
    whole += [record.seconds.total + left for record, left in known]
    if not whole:
        return None
    waiting = trials - len(begun) + len(running) - len(known)
    return pack([*(left for _, left in known), *[sum(whole) / len(whole)] * waiting], at_once)
