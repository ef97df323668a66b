"""`worldmodel leaderboard`: the grids and runs of a storage, best first."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional

from worldmodel.cli.verb import Result, Verb, metavar

WIDTH = 120
"""Columns of the tables where no terminal says how many it has."""


@dataclass(frozen=True, kw_only=True)
class Leaderboard(Verb):
    """Collect the grids and evaluated runs of a storage, in tables of what may be compared, best first."""

    storage: Annotated[Positional[str], metavar("STORAGE")] = "runs"
    """Folder or URI that holds grids and runs, or one grid's own folder."""

    def run(self) -> Result:
        from tune.leaderboard import collect
        from worldmodel.storage import Location

        return collect(Location.of(self.storage)).to_json()

    def render(self, result: Result) -> str:
        from rich.console import Console

        from tune.leaderboard import render_leaderboard

        is_terminal = sys.stdout.isatty()
        console = Console(file=io.StringIO(), force_terminal=is_terminal, width=None if is_terminal else WIDTH)
        with console.capture() as shown:
            console.print(render_leaderboard(result))
        return shown.get().rstrip()
