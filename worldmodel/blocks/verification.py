"""Proof that blocks hold their games: hashes, and every value against the source."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worldmodel.blocks.alarms import find_refused, note_disputes
from worldmodel.blocks.audit import Audit
from worldmodel.blocks.block import Block, local_copy, unpack_game
from worldmodel.blocks.index import REJECTED, BlockEntry, GameEntry, Index, hash_file, read_index
from worldmodel.errors import UserError
from worldmodel.games.game import Game, SparseRows
from worldmodel.games.names import name_stage
from worldmodel.games.planes import view_bits
from worldmodel.games.source import Reading, Unit, list_source, read_games
from worldmodel.storage import Location

MOST_NAMED = 100
"""Differences that a report names; it counts all."""
FRESH_GAMES = 8
"""Games that are kept for a comparison of features."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One place where blocks and source disagree."""

    game: str
    field: str
    """"p0.x", "items.x", "frames" or a feature's name; of a damaged block "sha256"."""
    frame: int | None
    """The first frame that differs; None where the whole does."""
    detail: str


@dataclass(kw_only=True)
class VerificationReport:
    """What was compared, and what differs."""

    blocks: str
    against: str | None
    blocks_checked: int = 0
    """Blocks whose sha256 was compared with the index."""
    games_checked: int = 0
    """Games read afresh from the source and compared value by value."""
    values_checked: int = 0
    samples_checked: int = 0
    """Samples whose features were computed from the blocks and from a fresh encoding."""
    differences: list[Difference] = field(default_factory=list)
    """The first hundred."""
    difference_count: int = 0
    unread: list[str] = field(default_factory=list)
    """Games of the blocks that the source no longer offers, or that cannot be read there: with the reason."""
    not_encoded: list[str] = field(default_factory=list)
    """Games of the source that the blocks neither hold nor say why they do not."""
    fresh: list[Reading] = field(default_factory=list)
    """Some of the games as the source has them; not part of the report."""
    audit: dict[str, Any] = field(default_factory=dict)
    """What the index says of the data: ranges, missing fields, vocabulary, constant columns, repeats, stages."""
    warnings: list[str] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    """What an encoding refuses, see `worldmodel.blocks.alarms`, and nobody has allowed."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing is refused, nothing differs and every game could be compared."""
        return not (self.alarms or self.difference_count or self.unread or self.not_encoded)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        found = {name: value for name, value in vars(self).items() if name not in ("differences", "fresh")}
        return {**found, "differences": [vars(d) for d in self.differences], "is_clean": self.is_clean}

    def add(self, difference: Difference) -> None:
        """Count a difference, and name it if it is among the first."""
        self.difference_count += 1
        if len(self.differences) < MOST_NAMED:
            self.differences.append(difference)


def verify_blocks(
    blocks: str, against: str | None = None, sample: int | None = None, read: Collection[str] = ()
) -> VerificationReport:
    """Check blocks by themselves, and against the games that they were encoded from where `against` names them.

    `sample`: compare so many games, chosen at random but always the same; None: all. `read`: fields that a model reads.
    UserError where there are no blocks, or no games to compare with.
    """
    if sample is not None and sample < 1:
        raise UserError(f"a sample of {sample} games: expected at least 1, or none for all")
    folder = Location.of(blocks)
    index = read_index(folder)
    audit = {name: value for name, value in index.audit.items() if name != "counts"}
    warnings = [*note_disputes(index.games), *Audit.from_counts(index.audit.get("counts", {})).warnings()]
    report = VerificationReport(blocks=str(folder), against=against, audit=audit, warnings=warnings)
    report.alarms = [f"{alarm.field}: {alarm.text}" for alarm in find_refused(index, read)]
    for entry in index.blocks:
        _check_hash(folder, entry, report)
    if against is not None and not report.difference_count:
        _compare(folder, index, against, sample, report)
    return report


def _check_hash(folder: Location, entry: BlockEntry, report: VerificationReport) -> None:
    report.blocks_checked += 1
    if not (folder / entry.name).exists():
        report.add(Difference(game=entry.name, field="sha256", frame=None, detail="the block is gone"))
        return
    with local_copy(folder / entry.name) as path:
        digest = hash_file(path)
    if digest != entry.sha256:
        detail = f"the block is damaged: sha256 {digest}, the index says {entry.sha256}"
        report.add(Difference(game=entry.name, field="sha256", frame=None, detail=detail))


def _compare(folder: Location, index: Index, against: str, sample: int | None, report: VerificationReport) -> None:
    units = list_source(against, training_only=False).units
    wanted, held = _choose(index, sample), {game.md5 for game in index.games}
    explained = _read_explained(folder, index)
    stored = _StoredGames(folder)
    for reading in read_games(_order_by_block(units, wanted)):
        name = reading.unit.name if reading.game is None else reading.game.md5
        entry = wanted.get(name)
        if entry is None:
            if reading.game is not None and name not in held and reading.file not in explained:
                report.not_encoded.append(reading.file)
            continue
        del wanted[name]
        if reading.game is None:
            report.unread.append(f"{name}: {reading.reason}")
            continue
        _compare_game(reading.game, stored.read(entry), report)
        report.fresh = [*report.fresh, reading][-FRESH_GAMES:]
    report.unread += [f"{name}: {against} has no such game" for name in sorted(wanted)]


def _read_explained(folder: Location, index: Index) -> set[str]:
    """Files that were left out when the blocks were made, with a reason."""
    rejected = json.loads((folder / REJECTED).read_text()) if (folder / REJECTED).exists() else []
    return {entry["file"] for entry in [*rejected, *index.filtered]}


def _choose(index: Index, sample: int | None) -> dict[str, GameEntry]:
    count = len(index.games) if sample is None else min(sample, len(index.games))
    chosen = np.random.default_rng(0).permutation(len(index.games))[:count]
    return {index.games[n].md5: index.games[n] for n in sorted(chosen.tolist())}


def _order_by_block(units: list[Unit], wanted: dict[str, GameEntry]) -> list[Unit]:
    """Units in the order in which their games lie in blocks, without loose games that are not wanted."""
    return sorted(units, key=lambda unit: wanted[unit.name].block if unit.name in wanted else "")


class _StoredGames:
    """Decodes games from blocks; the block of the last game stays open."""

    def __init__(self, folder: Location) -> None:
        self._folder = folder
        self._name = ""
        self._block: Block | None = None

    def read(self, entry: GameEntry) -> Game:
        """The game of an entry."""
        if self._block is None or self._name != entry.block:
            with local_copy(self._folder / entry.block) as path:  # a mapped file outlives its name
                self._block, self._name = Block.open(path), entry.block
        names = [str(about["md5"]) for about in self._block.games]
        return unpack_game(self._block.game(names.index(entry.md5)), entry)


def _compare_game(fresh: Game, stored: Game, report: VerificationReport) -> None:
    report.games_checked += 1
    if (fresh.frames, fresh.stage) != (stored.frames, stored.stage):
        held = f"the block has {stored.frames} on {name_stage(stored.stage)}"
        detail = f"{fresh.frames} frames on {name_stage(fresh.stage)}; {held}"
        report.add(Difference(game=fresh.md5, field="frames", frame=None, detail=detail))
        return
    for name in ("absent", "missing", "repeats"):
        if getattr(fresh, name) != getattr(stored, name):
            detail = f"{getattr(fresh, name)}; the index has {getattr(stored, name)}"
            report.add(Difference(game=fresh.md5, field=name, frame=None, detail=detail))
    for (player, name), values in fresh.columns.items():
        _compare_values(fresh.md5, f"p{player}.{name}", (values, stored.columns[player, name]), None, report)
    for group in sorted(fresh.sparse.keys() | stored.sparse.keys()):
        _compare_rows(fresh, stored, group, report)


def _compare_rows(fresh: Game, stored: Game, group: str, report: VerificationReport) -> None:
    pair = (fresh.sparse.get(group), stored.sparse.get(group))
    first, second = pair
    if first is None or second is None or len(first.frames) != len(second.frames):
        counts = [0 if rows is None else len(rows.frames) for rows in pair]
        detail = f"{counts[0]} rows; the block has {counts[1]}"
        report.add(Difference(game=fresh.md5, field=group, frame=None, detail=detail))
        return
    for name in ("frames", "slots", *first.values):
        found = (_part(first, name), _part(second, name))
        _compare_values(fresh.md5, f"{group}.{name}", found, first.frames, report)


def _part(rows: SparseRows, name: str) -> np.ndarray:
    return rows.values[name] if name in rows.values else np.asarray(getattr(rows, name))


def _compare_values(
    game: str, name: str, pair: tuple[np.ndarray, np.ndarray], frames: np.ndarray | None, report: VerificationReport
) -> None:
    """Compare two columns bit by bit; `frames`: the frame of each value, None: one value a frame."""
    fresh, stored = pair
    report.values_checked += len(fresh)
    if fresh.dtype != stored.dtype:
        report.add(Difference(game=game, field=name, frame=None, detail=f"{fresh.dtype}; the block has {stored.dtype}"))
        return
    bad = np.flatnonzero(view_bits(fresh) != view_bits(stored))
    if len(bad):
        at = int(bad[0])
        detail = f"{fresh[at]!r}; the block has {stored[at]!r} ({len(bad)} values differ)"
        report.add(Difference(game=game, field=name, frame=at if frames is None else int(frames[at]), detail=detail))
