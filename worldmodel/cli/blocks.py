"""`worldmodel encode` and `worldmodel audit`: from games to blocks, and back to check them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from tyro.conf import Positional

from worldmodel.cli.verb import Result, Verb, metavar
from worldmodel.progress import showing_progress


@dataclass(frozen=True, kw_only=True)
class Encode(Verb):
    """Encode games into blocks, losslessly; one encoding serves every experiment."""

    opening: ClassVar[str] = "looking for games"

    source: Annotated[Positional[str], metavar("SRC")]
    """Folder or URI of games: parsed, tar shards, replays, or the users' encoded .pt."""
    out: Annotated[Positional[str], metavar("OUT")]
    """Folder or URI to write blocks to; games that it already holds are left alone. One encoding at a time writes into
    a folder on a disk; in an object store nothing keeps two apart, so start one after the other there."""
    max_rejected: Annotated[float, metavar("SHARE")] = 0.02
    """Largest share (0 to 1) of games that may be rejected; above it encoding fails."""
    all_games: bool = False
    """Also games that meta.json says are not for training."""
    allow: Annotated[tuple[str, ...], metavar("FIELD")] = ()
    """Fields that may be constant, or hold values that no game reaches: known to be right."""
    cpus: Annotated[int | None, metavar("N")] = None
    """CPUs of a local Ray; default: all."""

    def run(self) -> Result:
        from worldmodel.blocks.encode import EncodeOptions, encode
        from worldmodel.encoding import EncodingConfig

        options = EncodeOptions(
            max_rejected=self.max_rejected, training_only=not self.all_games, cpus=self.cpus, allow=self.allow,
            read=EncodingConfig().layout.field_names,
        )  # fmt: skip
        with showing_progress() as tell:
            summary = encode(self.source, self.out, options, tell)
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
    """Check blocks: their hashes, what encoding refuses, and every value against the games."""

    opening: ClassVar[str] = "checking blocks"

    blocks: Annotated[Positional[str], metavar("BLOCKS")]
    """Folder or URI of blocks."""
    against: Annotated[str | None, metavar("GAMES")] = None
    """Folder or URI of the games that they were encoded from; default: the blocks alone."""
    sample: Annotated[int | None, metavar("N")] = None
    """Number of games to compare, always the same ones; default: all."""

    def run(self) -> Result:
        from worldmodel.features.verification import audit_blocks

        return audit_blocks(self.blocks, self.against, self.sample).to_dict()

    def judge(self, result: Result) -> int:
        return 0 if result["is_clean"] else 1

    def render(self, result: Result) -> str:
        from worldmodel.games.names import name_character, name_players

        audit = dict(result["audit"])
        audit["characters"] = {name_character(int(k)): v for k, v in audit.get("characters", {}).items()}
        names = ("stages", "characters", "repeats", "missing_in_games")
        counts = {name: ", ".join(f"{key} {count}" for key, count in audit.get(name, {}).items()) for name in names}
        shown = {k: v for k, v in result.items() if k != "audit" and (v or k != "differences")}
        return name_players(super().render({**shown, **{name: text for name, text in counts.items() if text}}))
