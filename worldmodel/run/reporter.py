"""What a run says on the terminal: a progress bar where there is one, else one informative line per interval."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from io import IOBase, TextIOBase
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from worldmodel.training.interval import Interval

QUIET_SECONDS, AGAIN_SECONDS = 1.0, 30.0
"""Seconds until the first progress line without a terminal, and between the following ones."""


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
        self._console = Console(file=cast(IO[str], shown), highlight=False, soft_wrap=True)
        self._bar = _make_bar(self._console) if self._console.is_terminal else None
        if self._bar:
            self._task = self._bar.add_task("", total=total_steps, line="")
            self._bar.start()
        self._doing, self._since, self._next = "", 0.0, 0.0

    def show(self, interval: Interval) -> None:
        """Shows one interval."""
        self._doing = ""
        line = format_interval(interval)
        self._keep(line)
        if self._bar:
            self._bar.update(self._task, completed=interval.step, line=line.split(" | ", 1)[1])
        else:
            self._console.print(line, markup=False)

    def show_progress(self, doing: str, done: int, whole: int) -> None:
        """Show progress of work between two intervals: live on a terminal, otherwise a line if it takes long."""
        now = time.monotonic()
        if doing != self._doing:
            self._doing, self._since, self._next = doing, now, now + QUIET_SECONDS
        taken = now - self._since
        left = f", eta {format_duration(taken * (whole - done) / done)}" if done else ""
        line = f"{doing} {100 * done // max(whole, 1)}%{left}"
        if self._bar:
            self._bar.update(self._task, line=line)
        elif left and now >= self._next:
            self._next = now + AGAIN_SECONDS
            self.say(line)

    def say(self, text: str) -> None:
        """Shows a message (a validation, a checkpoint, a note) on a line of its own."""
        self._keep(text)
        self._console.print(text, markup=False)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar:
            self._bar.stop()


def format_interval(interval: Interval) -> str:
    """The line of an interval."""
    left = (interval.total_steps - interval.step) * interval.step_seconds
    return " | ".join(
        (
            f"step {interval.step}/{interval.total_steps} {100 * interval.step / max(interval.total_steps, 1):.0f}%",
            f"epoch {interval.epoch}",
            f"loss {interval.loss:.4g}",
            f"lr {interval.learning_rate:.1e}",
            f"{1000 * interval.step_seconds:.1f} ms/step",
            f"{format_count(interval.targets_per_second)} targets/s",
            _format_shares(interval),
            f"eta {format_duration(left)}",
        )
    )


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


def format_duration(seconds: float | int) -> str:
    """Time in its two largest units: 45s, 3m12s, 2h05m, 1d03h."""
    whole = max(round(seconds), 0)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{whole % 60:02}s" if minutes else f"{whole}s"


def format_usd(dollars: float) -> str:
    """Dollars for people: cents, and for less than ten of them two digits."""
    return f"${dollars:.2f}" if dollars >= 0.1 or dollars == 0 else f"${dollars:.2g}"


def format_error(estimate: float, actual: float) -> str:
    """How far an actual time lies from its estimate: "22 % longer than estimated"."""
    percent = round(100 * (actual / estimate - 1)) if estimate else 0
    return f"{abs(percent)} % {'longer' if percent > 0 else 'shorter'} than estimated" if percent else "as estimated"


def _make_bar(console: Console) -> Progress:
    columns = (BarColumn(bar_width=24), TextColumn("{task.completed}/{task.total}"), TextColumn("{task.fields[line]}"))
    return Progress(*columns, console=console)
