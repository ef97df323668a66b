"""Round 1's grid: the seven experiments x seeds.

    python tune/round1.py --data ../games --scale laptop --seeds 3
    ray job submit -- python tune/round1.py --data s3://bucket/games --storage s3://bucket/runs

As `tune/grid.py`, with Round 1's list.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import psutil
from tyro.conf import UseAppendAction

if __package__ in (None, ""):  # run as a script: its own package lies one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tune import grid
from tune.options import GridRequest, join
from tune.variants import ROUND1
from worldmodel.cli.verb import metavar

_Names = Annotated[tuple[tuple[str, ...], ...], metavar("NAME"), UseAppendAction]


@dataclass(frozen=True, kw_only=True)
class Round1(GridRequest):
    """Train Round 1's experiments and compare them."""

    experiments: _Names = ()  # type: ignore[assignment]
    """Experiments to train: names of Round 1, or files; default: all seven. (repeatable)"""
    name: Annotated[str, metavar("NAME")] = "round1"
    """Name of the grid; its W&B group."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(join(self.experiments)) or ROUND1


def main(arguments: Sequence[str] | None = None, since: float | None = None) -> int:
    """As `tune.grid.main`."""
    return grid.main(arguments, since, kind=Round1)


if __name__ == "__main__":
    grid.leave(main(since=psutil.Process().create_time()))
