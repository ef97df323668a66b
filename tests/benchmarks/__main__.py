"""`make bench`: every claim about speed as a ratio that was measured in one run, in a table and as JSON."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console

from tests.benchmarks.options import Options
from tests.benchmarks.row import Row
from tests.benchmarks.table import make_table, write_json
from worldmodel.blocks.encode import encode
from worldmodel.games.toy import write_toy_games

ROOT = Path(__file__).parents[2]
USUAL = ("encode", "feed", "step")
AREAS = (*USUAL, "quality", "search", "rollout", "coherence")
TOY_GAMES = 60


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure worldmodel against its peers and its goals, on this machine."""

    areas: Annotated[tuple[str, ...], tyro.conf.Positional] = USUAL
    """What to measure: encode, feed, step, rollout; quality, search, coherence: the better part of an hour each."""
    data: Path | None = None
    """Folder of parsed games; None: $WORLDMODEL_SHARED/data/games or ../shared/data/games, else toy games."""
    json: Path = ROOT / ".benchmarks" / "bench.json"
    """Where the rows are written."""
    rounds: int = 5
    """Turns of each contestant."""
    peers: Path = ROOT / ".venv-peers" / "bin" / "python"
    """Python of the environment with the peers' libraries."""


def main() -> None:
    """Measure area by area; what was measured is shown and kept even if a later area fails."""
    bench, console = tyro.cli(Bench), Console(width=None if sys.stdout.isatty() else 200)
    torch.set_num_threads(1)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        options = prepare(bench, Path(scratch))
        for area in bench.areas:
            began = time.perf_counter()
            found = import_module(f"tests.benchmarks.{area}").measure(options)
            rows += found
            console.print(make_table(found), f"{area} took {time.perf_counter() - began:.0f} s")
            write_json(rows, bench.json)
    missed = [row for row in rows if row.holds is False]
    console.print(f"{len(rows)} rows, {len(missed)} missed goals; written to {bench.json}")


def prepare(bench: Bench, scratch: Path) -> Options:
    """Games and their blocks, ready to be read."""
    unknown = set(bench.areas) - set(AREAS)
    if unknown:
        sys.exit(f"unknown areas {', '.join(sorted(unknown))}: there are {', '.join(AREAS)}")
    games = bench.data or _find_real_games()
    if games is None:
        games = scratch / "toy"
        write_toy_games(games, TOY_GAMES)
    encode(str(games), str(scratch / "blocks"))
    return Options(
        games=games,
        blocks=scratch / "blocks",
        scratch=scratch,
        rounds=bench.rounds,
        peers=bench.peers if bench.peers.exists() else None,
    )


def _find_real_games() -> Path | None:
    shared = Path(os.environ.get("WORLDMODEL_SHARED", ROOT.parent / "shared"))
    games = shared / "data" / "games"
    return games if games.is_dir() else None


if __name__ == "__main__":
    main()
