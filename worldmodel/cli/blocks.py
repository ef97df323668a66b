"""`worldmodel encode` and `worldmodel audit`: from games to blocks, and back to check them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional

from worldmodel.cli.verb import Result, Verb, metavar, showing_progress
from worldmodel.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Encode(Verb):
    """Encode games into blocks, losslessly; one encoding serves every experiment."""

    source: Annotated[Positional[str], metavar("SRC")]
    """Folder or URI of games: parsed, tar shards, or the users' encoded .pt."""
    out: Annotated[Positional[str], metavar("OUT")]
    """Folder or URI to write blocks to; games that it already holds are left alone."""
    max_rejected: float = 0.02
    """Largest share (0 to 1) of games that may be rejected; above it encoding fails."""
    all_games: bool = False
    """Also games that meta.json says are not for training."""
    cpus: Annotated[int | None, metavar("N")] = None
    """CPUs of a local Ray; None: all."""

    def run(self) -> Result:
        from worldmodel.blocks.encode import EncodeOptions, encode

        options = EncodeOptions(max_rejected=self.max_rejected, training_only=not self.all_games, cpus=self.cpus)
        with showing_progress("games") as progress:
            summary = encode(self.source, self.out, options, progress)
        index = summary.index
        return {
            "games": len(index.games),
            "encoded_now": summary.encoded,
            "frames": index.frames,
            "hours": index.hours,
            "blocks": len(index.blocks),
            "bytes_per_frame": index.bytes_per_frame,
            "rejected": len(summary.rejected),
            "filtered": len(index.filtered),
            "fingerprint": index.fingerprint,
            "schema_hash": index.schema_hash,
            "warnings": summary.warnings,
            "out": self.out,
        }


@dataclass(frozen=True, kw_only=True)
class Audit(Verb):
    """Check blocks: their hashes, constant columns, impossible values, and every value against the games."""

    blocks: Annotated[Positional[str], metavar("BLOCKS")]
    """Folder or URI of blocks."""
    against: Annotated[str | None, metavar("GAMES")] = None
    """Folder or URI of the games that they were encoded from; None: the blocks alone."""

    def run(self) -> Result:
        raise UserError("`worldmodel audit` is not built yet")
