"""`index.json`: what a folder of blocks holds. A folder without it is not a data set, so it is written last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from worldmodel.errors import UserError
from worldmodel.schema import FRAMES_PER_SECOND, schema_hash
from worldmodel.storage import Location, check_plain_name

FORMAT = 4
INDEX, REJECTED = "index.json", "rejected.json"
REFUSED = "refused-index.json"
"""The index of games that encoding has refused: only another encoding reads it, and need not encode them again."""
PARTITIONS = 8
"""Canonical partitions: a game belongs to one by its md5, a block holds games of one. A worker reads its share."""


@dataclass(frozen=True, kw_only=True)
class GameEntry:
    """A game in a block."""

    md5: str
    frames: int
    stage: int
    characters: tuple[int, ...]
    """Internal character ids of P1 and P2: those that they play most."""
    end_method: int | None
    """Slippi's `game_end_method`: 2 by stocks, 7 a player quit; None: unknown."""
    block: str
    row: int
    """First row in its block."""
    order: int
    """Place in the source's own order."""
    source: str
    """"parsed", "tar" or "tensors" (reconstructed from scaled values)."""
    source_bytes: int
    """Size of the file it was read from; a file of another size under the same md5 is encoded anew."""
    shard: str
    """The tar shard or .pt it came from; empty for a file of its own."""
    repeats: str
    """Rollback repeats: "none", "N dropped" or "unknown"."""
    missing: tuple[str, ...]
    """Fields that its replay lacks ("p0.hitlag"): masked in loss and metrics."""
    absent: tuple[str, ...]
    """Columns and groups that its file does not have."""
    place: int = 0
    """Place within its shard or .pt."""
    digest: str = ""
    """32 hex digits of the game's values, whatever file they came in."""
    played_on: str = ""
    """What its meta.json says of where it was played: "dolphin", "toy", "world model"; empty: nothing."""
    disputed: tuple[str, ...] = ()
    """What its meta.json says otherwise than the game: "stage 3", "character 2"."""
    declared: tuple[str, ...] = ()
    """Fields that its meta.json says its replay lacks; where that changes, the game is encoded anew."""


@dataclass(frozen=True, kw_only=True)
class BlockEntry:
    """A block file."""

    name: str
    layout: str
    partition: int
    frames: int
    games: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Index:
    """All of a data set but its frames."""

    games: list[GameEntry]
    blocks: list[BlockEntry]
    shards: list[dict[str, object]] = field(default_factory=list)
    """Name, size, time and `training_only` of each tar shard or .pt that was read whole."""
    filtered: list[dict[str, str]] = field(default_factory=list)
    """Games left out on purpose: {file, reason}."""
    rejected: list[dict[str, str]] = field(default_factory=list)
    """What of those shards gave no game: {file, reason}. `rejected.json` has all that the last encoding met."""
    audit: dict[str, Any] = field(default_factory=dict)
    """See `audit.py`."""
    schema_hash: str = field(default_factory=schema_hash)
    partitions: int = PARTITIONS
    format: int = FORMAT

    @cached_property
    def frames(self) -> int:
        """Frames of all games."""
        return sum(game.frames for game in self.games)

    @cached_property
    def bytes_per_frame(self) -> float:
        """Bytes of all block files per frame, sparse groups and file headers included."""
        frames = sum(block.frames for block in self.blocks)
        return sum(block.bytes for block in self.blocks) / frames if frames else 0.0

    @property
    def hours(self) -> float:
        """Hours of play."""
        return self.frames / FRAMES_PER_SECOND / 3600

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that name these games' values in this schema, whatever blocks they lie in."""
        names = sorted(f"{game.md5}:{game.frames}:{game.digest}" for game in self.games)
        return hashlib.sha256("\n".join([self.schema_hash, *names]).encode()).hexdigest()[:16]


def partition_of(md5: str, partitions: int = PARTITIONS) -> int:
    """The canonical partition of a game."""
    return int(_hex(md5)[:8], 16) % partitions


def split_position(md5: str) -> float:
    """A game's place in [0, 1) by which md5 splits are cut; independent of its partition."""
    return int(_hex(md5)[8:16], 16) / 2**32


def _hex(md5: str) -> str:
    is_md5 = len(md5) == 32 and all(c in "0123456789abcdef" for c in md5)
    return md5 if is_md5 else hashlib.md5(md5.encode(), usedforsecurity=False).hexdigest()


def write_index(out: Location, index: Index, name: str = INDEX) -> None:
    """Write `index.json`, atomically: a line for each game and each block."""
    parts = [f"{json.dumps(f.name)}: {_to_json(getattr(index, f.name))}" for f in fields(index)]
    (out / name).write_text("{\n" + ",\n".join(parts) + "\n}\n")


def _to_json(value: Any) -> str:
    """A list with a line for each entry; `indent` would do without the encoder in C, and `asdict` copy every value."""
    if not isinstance(value, list):
        return json.dumps(value)
    entries = (vars(entry) if isinstance(entry, GameEntry | BlockEntry) else entry for entry in value)
    return "[" + ",".join("\n" + json.dumps(entry) for entry in entries) + "]"


def write_rejected(out: Location, rejected: Iterable[Any]) -> None:
    """Write `rejected.json`: a list of {file, reason}."""
    (out / REJECTED).write_text(json.dumps([asdict(r) for r in rejected], indent=1))


def has_index(where: Location) -> bool:
    """Whether a folder is a data set of blocks, though perhaps a refused one, which `read_index` explains."""
    return any((where / name).exists() for name in (INDEX, REFUSED))


def read_index(where: Location, name: str = INDEX) -> Index:
    """The index of a data set; UserError where there is none or it is of another format or schema."""
    if not (where / name).exists():
        raise UserError(_explain_absence(where))
    try:
        found = json.loads((where / name).read_text())
        if found["format"] != FORMAT or found["schema_hash"] != schema_hash():
            raise UserError(
                f"{where} was encoded with format {found['format']} and schema {found['schema_hash']}; this version "
                f"has {FORMAT} and {schema_hash()}: encode the games again into another folder"
            )
        games = [entry_from_json(game) for game in found["games"]]
        blocks = [BlockEntry(**{**b, "name": check_plain_name(b["name"])}) for b in found["blocks"]]
        return Index(**{**found, "games": games, "blocks": blocks})
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where / name} is damaged ({error}): encode the games again") from error


def _explain_absence(where: Location) -> str:
    if (where / REFUSED).exists():
        return (
            f"{where} holds games that encoding has refused: encode them again to see why, and allow what is as it "
            f"should be: worldmodel encode GAMES {where} --allow FIELD"
        )
    found = f"{where} holds no encoded games (no {INDEX})" if where.exists() else f"there is no folder {where}"
    return f"{found}: expected blocks; make them with: worldmodel encode GAMES {where}"


def entry_from_json(entry: dict[str, Any]) -> GameEntry:
    """A game's entry from its JSON form (lists become tuples)."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    return GameEntry(**values)


def hash_file(path: Path) -> str:
    """sha256 of a local file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
