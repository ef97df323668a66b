"""What every verb of the command line has in common."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from tyro.conf import arg

if TYPE_CHECKING:
    from rich.progress import ProgressColumn, TaskID

Result = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One verb: its arguments, and the one library function that it calls."""

    json: bool = False
    """Print the result as exactly one JSON object on stdout; everything else goes to stderr."""

    def run(self) -> Result:
        """Carry it out, and return what is to be printed.

        Raises:
            UserError: the request cannot be carried out.
        """
        raise NotImplementedError

    def judge(self, result: Result) -> int:
        """The exit status."""
        return 0

    def render(self, result: Result) -> str:
        """The result for people: a line for each value."""
        width = max((len(name) for name in result), default=0)
        return "\n".join(f"{name:<{width}}  {_shorten(value)}" for name, value in result.items())


def metavar(name: str) -> Any:
    """How an argument's value is called in `--help`; an empty default is left to its help text."""
    return arg(metavar=name, help_behavior_hint=lambda text: f"(default: {text})" * (text not in ("None", "''", "")))


def as_result(summary: Any) -> dict[str, Any]:
    """A library function's summary (a dataclass instance) as a result."""
    return dataclasses.asdict(summary)


def to_json(result: Result) -> str:
    """The result as one line of JSON; paths and the like as texts."""
    return json.dumps(result, default=str)


def report(message: str) -> None:
    """Tell people something on stderr, where it cannot mix with a result."""
    print(message, file=sys.stderr, flush=True)


@contextmanager
def showing_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yields what a library function calls with (done, in all); a bar on a terminal's stderr, nothing elsewhere."""
    with showing_stages() as show:
        yield partial(show, what)


@contextmanager
def showing_stages() -> Iterator[Callable[[str, int, int], None]]:
    """As `showing_progress`, but called with (name of the stage, done, in all): one bar per stage."""
    from rich.progress import MofNCompleteColumn

    with _showing_bars(MofNCompleteColumn(), is_transient=True) as show:
        yield show


@contextmanager
def showing_bytes() -> Iterator[Callable[[str, int, int], None]]:
    """Yields what a library function calls with (what it does, bytes done, bytes in all); on a terminal, bars."""
    from rich.progress import DownloadColumn, TransferSpeedColumn

    with _showing_bars(DownloadColumn(), TransferSpeedColumn(), is_transient=False) as show:
        yield show


@contextmanager
def _showing_bars(*measures: ProgressColumn, is_transient: bool) -> Iterator[Callable[[str, int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), *measures, TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=is_transient) as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, whole: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=whole)
            bar.update(tasks[what], completed=done, total=whole)

        yield show


def _shorten(value: Any, most: int = 20) -> str:
    if isinstance(value, list | tuple):
        more = [f"... {len(value) - most} more"] if len(value) > most else []
        return "".join(f"\n  {item}" for item in (*value[:most], *more)) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
