"""From what a user names as data to games that train and games that validate, in blocks at hand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from worldmodel.blocks.encode import EncodeOptions, encode
from worldmodel.blocks.index import GameEntry, Index, has_index, read_index
from worldmodel.errors import UserError
from worldmodel.experiment.config import DataConfig, ExperimentConfig
from worldmodel.features.shelf import Shelf, open_shelf
from worldmodel.features.split import GameFilter, Split, sample_games, select_games, split_games
from worldmodel.progress import showing_progress
from worldmodel.schema import PLAYERS
from worldmodel.storage import Location

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Encoded games, filtered and split."""

    blocks: str
    """Folder or URI of the blocks."""
    shelf: Shelf
    """Gives its blocks: `blocks` itself, or this machine's cache of it."""
    index: Index
    split: Split

    @property
    def fingerprint(self) -> str:
        """16 hex digits that name the games and how they are split."""
        parts = [self.split.train, self.split.validation, *([self.split.test] if self.split.test else [])]
        sides = ["\n".join(sorted(game.md5 for game in part)) for part in parts]
        return hashlib.sha256("\n\n".join([self.index.fingerprint, *sides]).encode()).hexdigest()[:16]


def prepare_blocks(source: str, storage: str, report: Report) -> str:
    """The URI of blocks that hold `source`: itself where it is encoded, else encoded now (or found) below `storage`.

    Another process that encodes the same there is waited for.
    """
    where = Location.of(source)
    if has_index(where):
        return str(where)
    name = hashlib.sha256(str(where).encode()).hexdigest()[:12]
    out = Location.of(storage) / "blocks" / name
    with showing_progress("looking for games", say=report) as tell:
        summary = encode(str(where), str(out), EncodeOptions(on_wait=report), tell)
    found = summary.index
    report(
        f"{len(found.games)} games, {found.frames:,} frames in {out} "
        f"({summary.encoded} encoded now, {len(summary.rejected)} rejected)"
    )
    for warning in summary.warnings:
        report(f"note: {warning}")
    return str(out)


def open_dataset(blocks: str, config: ExperimentConfig) -> Dataset:
    """Blocks under an experiment's filters and split. UserError as its parts, or where a block is gone or cut short."""
    where = Location.of(blocks)
    index = read_index(where)
    games = select_games(index.games, filter_of(config.data))
    split = split_games(games, config.training.train_split, config.data.split, config.training.test_split)
    shelf, needed = open_shelf(where), {game.block for game in games}
    shelf.check([block for block in index.blocks if block.name in needed])
    return Dataset(blocks=blocks, shelf=shelf, index=index, split=split)


def find_unrecorded(games: Sequence[GameEntry]) -> list[str]:
    """Fields that no game records of either player, so that nothing is learned of them."""
    columns = [set(game.missing) for game in games]
    missing = set.intersection(*columns) if columns else set[str]()
    return sorted({name[3:] for name in missing if {f"p{p}.{name[3:]}" for p in range(PLAYERS)} <= missing})


def note_unrecorded(games: Sequence[GameEntry], untrained: Collection[str] = ()) -> tuple[str, ...]:
    """What people should know of fields that some games, or all that were trained on, do not record."""
    names = sorted({*untrained, *(name.partition(".")[2] for game in games for name in game.missing)})
    if not names:
        return ()
    return (
        f"not recorded in all games: {', '.join(names)}; there metrics leave them out, own frames of rollouts hold 0, "
        "and what follows from them (stocks lost, the kinematic baseline) says nothing",
    )


def choose_validated(split: Split, config: ExperimentConfig) -> list[GameEntry]:
    """Games of an epoch's validation, see `training.validation_games`."""
    return sample_games(split.validation, config.training.validation_games)


def filter_of(config: DataConfig) -> GameFilter:
    """Which games an experiment uses."""

    def as_set(value: int | tuple[int, ...] | None) -> frozenset[int] | None:
        return None if value is None else frozenset(value if isinstance(value, tuple) else (value,))

    return GameFilter(
        stages=as_set(config.stage_filter),
        characters=as_set(config.character_filter),
        end_method=config.end_method,
        max_games=config.max_games,
    )


def require_source(config: ExperimentConfig) -> str:
    """Where the experiment's data are. UserError where nothing says so."""
    if not config.data.dataset_dir:
        raise UserError("no data: name games or blocks with --data (or data.dataset_dir in the experiment file)")
    return config.data.dataset_dir
