"""How far work is: bars with the time left on a terminal, elsewhere a line at its start and about one a minute."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

Tell = Callable[[str, int, int], None]
"""Progress callback: name of the work, amount done, total amount."""
QUIET_SECONDS, AGAIN_SECONDS = 1.0, 60.0
"""Seconds until the first line of a command and of a stage without a terminal, and between the following ones."""
_outer: ContextVar[Tell | None] = ContextVar("outer", default=None)


def say_nothing(doing: str, done: int, whole: int) -> None:
    """Ignore progress."""


class Lines:
    """Says how far work is, for a log: nothing of a stage that takes less than a second."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._doing, self._since, self._next = "", 0.0, 0.0

    def tell(self, doing: str, done: int, whole: int) -> None:
        """Take in progress."""
        now = time.monotonic()
        if doing != self._doing:
            self._doing, self._since, self._next = doing, now, now + QUIET_SECONDS
        if 0 < done < whole and now >= self._next:
            self._next = now + AGAIN_SECONDS
            self._say(f"{doing} {describe_share(done, whole, now - self._since)}")

    def forget(self) -> None:
        """Take the next progress for that of another stage, also where its name is the same."""
        self._doing = ""


def describe_share(done: int, whole: int, seconds: float) -> str:
    """How far work is after so many seconds, and when it will end: "45%, eta 2m10s"."""
    left = f", eta {format_duration(seconds * (whole - done) / done)}" if done else ""
    return f"{100 * done // max(whole, 1)}%{left}"


def format_duration(seconds: float | int) -> str:
    """Time in its two largest units: 45s, 3m12s, 2h05m, 1d03h."""
    whole = max(round(seconds), 0)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{whole % 60:02}s" if minutes else f"{whole}s"


@contextmanager
def showing_progress(
    opening: str = "", *, sizes: bool = False, say: Callable[[str], object] | None = None
) -> Iterator[Tell]:
    """Yields what work tells how far it is. Within another one, it is that one's.

    Args:
        opening: what is shown at once, before the work tells anything.
        sizes: whether amounts are bytes.
        say: takes the lines where stderr is no terminal; None: they go to stderr.
    """
    from rich.console import Console

    if outer := _outer.get():
        yield outer
        return
    console = Console(stderr=True)
    is_live = console.is_terminal and not console.is_dumb_terminal
    with _showing_bars(console, opening, sizes) if is_live else _saying(opening, say or _print) as tell:
        token = _outer.set(tell)
        try:
            yield tell
        finally:
            _outer.reset(token)


@contextmanager
def _saying(opening: str, say: Callable[[str], object]) -> Iterator[Tell]:
    timer = threading.Timer(QUIET_SECONDS, say, [f"{opening} ..."])
    timer.daemon = True
    if opening:
        timer.start()
    try:
        yield Lines(say).tell
    finally:
        timer.cancel()


@contextmanager
def _showing_bars(console: Console, opening: str, sizes: bool) -> Iterator[Tell]:
    from rich import progress as bars
    from rich.filesize import decimal

    elapsed = () if sizes else (bars.TimeElapsedColumn(),)
    texts = [bars.TextColumn(f"{{task.{name}}}") for name in ("description", "fields[much]", "fields[eta]")]
    columns = (texts[0], bars.BarColumn(24), texts[1], *elapsed, texts[2], bars.TimeRemainingColumn())
    with bars.Progress(*columns, console=console, transient=True, refresh_per_second=4) as bar:
        tasks: dict[str, TaskID] = {opening: bar.add_task(opening, total=None, visible=bool(opening), much="", eta="")}

        def tell(doing: str, done: int, whole: int) -> None:
            if doing not in tasks:
                bar.update(tasks[opening], visible=False)
                tasks[doing] = bar.add_task(doing, total=whole, much="", eta="eta")
            speed = bar.tasks[tasks[doing]].speed
            pace = f", {decimal(int(speed))}/s" if speed else ""
            much = f"{decimal(done)} of {decimal(whole)}{pace}" if sizes else f"{100 * done // max(whole, 1):3}%"
            bar.update(tasks[doing], completed=done, total=whole, much=much)

        yield tell


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
