"""`worldmodel games`: toy games, games from replays, games packed into shards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional

from worldmodel.cli.verb import Result, Verb, as_result, metavar
from worldmodel.progress import showing_progress


@dataclass(frozen=True, kw_only=True)
class Toy(Verb):
    """Write toy games: a small two-player physics game with the full schema, for a machine without data."""

    opening: ClassVar[str] = "making games"

    out: Annotated[Positional[Path], metavar("OUT")]
    """Folder to write them to, in the parsed layout."""
    count: Annotated[int, metavar("N")] = 24
    """Number of games."""
    seed: Annotated[int, metavar("N")] = 0
    """The same seed gives the same games, byte for byte."""

    def run(self) -> Result:
        from worldmodel.games.toy import write_toy_games

        write_toy_games(self.out, self.count, self.seed)
        return {"games": self.count, "seed": self.seed, "out": self.out}


@dataclass(frozen=True, kw_only=True)
class Parse(Verb):
    """Turn Slippi replays (.slp, .slp.gz) into parsed games; what is left out is named in OUT/rejected.json."""

    opening: ClassVar[str] = "looking for replays"

    source: Annotated[Positional[Path], metavar("SRC")]
    """Folder of replays, searched with all its subfolders."""
    out: Annotated[Positional[Path], metavar("OUT")]
    """Folder to write parsed games to; a second run over it goes on where the first ended."""
    workers: Annotated[int, metavar("N")] = 2
    """Parser processes."""

    def run(self) -> Result:
        from worldmodel.games.parse import parse_replays

        with showing_progress() as tell:
            return as_result(parse_replays(self.source, self.out, workers=self.workers, tell=tell))


@dataclass(frozen=True, kw_only=True)
class Pack(Verb):
    """Pack parsed games into tar shards, which object storage reads in one go."""

    opening: ClassVar[str] = "packing games"

    source: Annotated[Positional[str], metavar("SRC")]
    """Folder or URI of parsed games."""
    out: Annotated[Positional[str], metavar("OUT")]
    """Folder or URI to write shards to; it must hold no games yet."""
    shard_mb: Annotated[float, metavar("MB")] = 200.0
    """Size of a shard in megabytes."""

    def run(self) -> Result:
        from worldmodel.games.tar import pack_games

        return as_result(pack_games(self.source, self.out, shard_mb=self.shard_mb))
