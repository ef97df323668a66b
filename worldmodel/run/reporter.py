"""What a run says on the terminal: a progress bar where there is one, else one informative line per interval."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import IOBase, TextIOBase
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from worldmodel.progress import Lines, describe_share
from worldmodel.progress import format_duration as format_duration
from worldmodel.training.interval import Interval

BAR = 16
"""Columns of a bar."""


class SafeStream(TextIOBase):
    """A text stream for people, over another one that may fail: its reader has gone, as `tee` does at Ctrl-C, or its
    terminal, or its disk is full. That ends no run, and costs it no checkpoint."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Passes a text on."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Passes on what waits."""
        with suppress(OSError):
            self._stream.flush()

    def isatty(self) -> bool:
        """Whether people look on."""
        return bool(self._stream.isatty())

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """What its bytes mean."""
        return getattr(self._stream, "encoding", None) or "utf-8"


class Reporter:
    """Shows intervals and messages on a stream, and hands every line to `keep` as well."""

    def __init__(self, total_steps: int, keep: Callable[[str], object] = len, stream: IOBase | None = None) -> None:
        self._keep = keep
        shown = SafeStream(stream or sys.stdout)
        self._console = Console(file=cast(IO[str], shown), highlight=False)
        self._lines, self._stages = Lines(self.say), dict[str, tuple[TaskID, float]]()
        self._bar = None
        if self._console.is_terminal:
            columns = (BarColumn(BAR), TextColumn("{task.fields[line]}", table_column=Column(no_wrap=True)))
            self._bar = Progress(*columns, console=self._console, refresh_per_second=4)
            self._task = self._bar.add_task("", total=total_steps, line=f"0/{total_steps}")
            self._bar.start()

    def show(self, interval: Interval) -> None:
        """Shows one interval."""
        self._end_stages()
        parts = list_facts(interval)
        self._keep(line := " | ".join(parts))
        if self._bar:
            parts[0] = parts[0].removeprefix("step ")
            fitting = _fit(parts, self._console.width - BAR - 1)
            self._bar.update(self._task, completed=interval.step, line=fitting)
        else:
            self._console.print(line, markup=False, soft_wrap=True)

    def show_progress(self, doing: str, done: int, whole: int) -> None:
        """Show progress of work between two intervals: a bar on a terminal, otherwise a line if it takes long."""
        if not self._bar:
            self._lines.tell(doing, done, whole)
            return
        if doing not in self._stages:
            self._stages[doing] = self._bar.add_task("", line=""), time.monotonic()
        task, since = self._stages[doing]
        line = f"{doing} {describe_share(done, whole, time.monotonic() - since)}"
        self._bar.update(task, completed=done, total=whole, line=line)

    def _end_stages(self) -> None:
        self._lines.forget()
        while self._bar and self._stages:
            self._bar.remove_task(self._stages.popitem()[1][0])

    def say(self, text: str) -> None:
        """Shows a message (a validation, a checkpoint, a note) on a line of its own."""
        self._keep(text)
        self._console.print(text, markup=False, soft_wrap=not self._bar)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        self._end_stages()
        if self._bar:
            self._bar.stop()


def list_facts(interval: Interval) -> list[str]:
    """What is told of an interval, the most important first: the first four fit into 80 columns, with a bar."""
    left = (interval.total_steps - interval.step) * interval.step_seconds
    return [
        f"step {interval.step}/{interval.total_steps} {100 * interval.step / max(interval.total_steps, 1):.0f}%",
        f"loss {interval.loss:.4g}",
        f"{format_count(interval.targets_per_second)} targets/s",
        f"eta {format_duration(left)}",
        f"epoch {interval.epoch}",
        f"lr {interval.learning_rate:.1e}",
        f"{1000 * interval.step_seconds:.1f} ms/step",
        _format_shares(interval),
    ]


def _fit(parts: Sequence[str], width: int) -> str:
    """As many of the parts as fit into a line."""
    lines = [" | ".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return next((line for line in lines if len(line) <= width), lines[-1])


def _format_shares(interval: Interval) -> str:
    """Shares of a step's time, and MFU; host and device work at the same time, where they are two."""
    shares = {"data": interval.data_share, "host": interval.host_share, "device": interval.device_share}
    if interval.device_share is None:
        shares["compute"] = 1 - interval.data_share
    shares["mfu"] = interval.mfu
    return " ".join(f"{name} {100 * share:.1f}%" for name, share in shares.items() if share is not None)


def format_count(number: float | int) -> str:
    """A count with at most four digits and a unit: 950, 51k, 1.2M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def format_usd(dollars: float) -> str:
    """Dollars for people: cents, and for less than ten of them two digits."""
    return f"${dollars:.2f}" if dollars >= 0.1 or dollars == 0 else f"${dollars:.2g}"


def format_error(estimate: float, actual: float) -> str:
    """How far an actual time lies from its estimate: "22 % longer than estimated"."""
    percent = round(100 * (actual / estimate - 1)) if estimate else 0
    return f"{abs(percent)} % {'longer' if percent > 0 else 'shorter'} than estimated" if percent else "as estimated"
