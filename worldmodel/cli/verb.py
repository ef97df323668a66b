"""What every verb of the command line has in common."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tyro.conf import arg

Result = Mapping[str, Any]
NARROWEST = 80
"""Columns that a table takes at least."""


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One verb: its arguments, and the one library function that it calls."""

    opening: ClassVar[str] = ""
    """What is shown before the work tells how far it is; empty: it is done at once, or shows it in its own way."""
    tells_bytes: ClassVar[bool] = False
    """Whether the work's amounts are bytes."""
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


def draw(*parts: Any, width: int = 120) -> str:
    """Tables as text, as wide as the terminal. `width`: where no terminal says how wide it is."""
    from rich.console import Console

    page = io.StringIO()
    columns = shutil.get_terminal_size((width, 0)).columns
    Console(file=page, width=max(columns, NARROWEST)).print(*parts, sep="\n", markup=False, highlight=False)
    return "\n".join(line.rstrip() for line in page.getvalue().rstrip().splitlines())


def report(message: str) -> None:
    """Tell people something on stderr, where it cannot mix with a result."""
    print(message, file=sys.stderr, flush=True)


def _shorten(value: Any, most: int = 20) -> str:
    if isinstance(value, list | tuple):
        more = [f"... {len(value) - most} more"] if len(value) > most else []
        return "".join(f"\n  {item}" for item in (*value[:most], *more)) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
