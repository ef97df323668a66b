"""What a grid's trials are doing, read from their run folders while it runs."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from rich.console import Console
from rich.live import Live
from rich.table import Table

from tune.grid import Trial
from worldmodel.errors import UserError
from worldmodel.run.record import RunRecord, State
from worldmodel.run.reporter import format_duration
from worldmodel.run.run_folder import RECORD, describe_end, read_record
from worldmodel.storage import Location

REFRESH_SECONDS = 2.0
SHOWN = ("val_metric/position_mae", "val_metric/action_acc", "val_metric/action_change_acc")


@contextmanager
def show_live(folder: Location, trials: Sequence[Trial]) -> Iterator[None]:
    """While it lasts: a table on a terminal; elsewhere one line for each trial that ends meanwhile."""
    console = Console(stderr=True)
    stop = threading.Event()
    work = _keep_table if console.is_terminal else _tell_ends
    thread = threading.Thread(target=work, args=(folder, trials, console, stop), name="live table", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _keep_table(folder: Location, trials: Sequence[Trial], console: Console, stop: threading.Event) -> None:
    with Live(console=console, refresh_per_second=1) as live:
        while True:
            is_last = stop.wait(REFRESH_SECONDS)
            live.update(render(folder, trials))
            if is_last:
                return


def _tell_ends(folder: Location, trials: Sequence[Trial], console: Console, stop: threading.Event) -> None:
    told: set[str] = set()
    began = datetime.now(UTC)
    while True:
        is_last = stop.wait(REFRESH_SECONDS)
        for trial in trials:
            record = _read(folder, trial.name)
            if record and record.ended and record.ended >= began and trial.name not in told:
                told.add(trial.name)
                with suppress(OSError):  # nobody reads it any more
                    print(f"{trial.name}: {describe_end(record)}", file=sys.stderr, flush=True)
        if is_last:
            return


def render(folder: Location, trials: Sequence[Trial]) -> Table:
    """One row per trial."""
    table = Table("trial", "state", "step", *(name.split("/")[1] for name in SHOWN), "time")
    records = [_read(folder, trial.name) for trial in trials]
    table.caption = "; ".join(dict.fromkeys(record.validated for record in records if record and record.validated))
    for trial, record in zip(trials, records, strict=True):
        if record is None:
            table.add_row(trial.name, "waiting", style="dim")
            continue
        values = (record.metrics.get(name) for name in SHOWN)
        style = {State.FAILED: "red", State.FINISHED: "green"}.get(record.state, "")
        table.add_row(
            trial.name, record.state.value, f"{record.step}/{record.total_steps or '?'}",
            *("" if value is None else f"{value:.4f}" for value in values),
            format_duration(record.seconds.total), style=style,
        )  # fmt: skip
    return table


def _read(folder: Location, name: str) -> RunRecord | None:
    location = folder / name
    try:
        return read_record(location) if (location / RECORD).exists() else None
    except UserError:  # being written
        return None
