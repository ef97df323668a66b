"""`worldmodel encode` and `worldmodel audit`: from games to blocks, and back to check them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional

from worldmodel.cli.verb import Result, Verb, metavar
from worldmodel.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Encode(Verb):
    """Encode games into blocks, losslessly; one encoding serves every experiment."""

    source: Annotated[Positional[str], metavar("SRC")]
    """Folder or URI of games: parsed, tar shards, or the users' encoded .pt."""
    out: Annotated[Positional[str], metavar("OUT")]
    """Folder or URI to write blocks to."""

    def run(self) -> Result:
        raise UserError("`worldmodel encode` is not built yet")


@dataclass(frozen=True, kw_only=True)
class Audit(Verb):
    """Check blocks: their hashes, constant columns, impossible values, and every value against the games."""

    blocks: Annotated[Positional[str], metavar("BLOCKS")]
    """Folder or URI of blocks."""
    against: Annotated[str | None, metavar("GAMES")] = None
    """Folder or URI of the games that they were encoded from; None: the blocks alone."""

    def run(self) -> Result:
        raise UserError("`worldmodel audit` is not built yet")
