"""How much an experiment has to train on: counted in blocks, or told from a sample of games that nobody encoded yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import ceil
from pathlib import Path

from worldmodel.blocks.index import GameEntry, Index, has_index, read_index, write_index
from worldmodel.blocks.task import BlockWriter
from worldmodel.errors import GameError, UserError
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.features.plan import Plan
from worldmodel.features.shelf import open_shelf
from worldmodel.features.split import Split, select_games, split_games
from worldmodel.games.parsed import read_game
from worldmodel.games.replay_source import holds_replays
from worldmodel.games.shard import iterate_shard
from worldmodel.games.source import Reading, Unit, list_source, read_games
from worldmodel.run.estimate import Work, count_predicted, count_rolled
from worldmodel.storage import Location
from worldmodel.training.data import Dataset, choose_validated, filter_of
from worldmodel.training.feed import sample_shape
from worldmodel.training.schedule import Schedule

SAMPLE_GAMES = 40
"""Games that are encoded to tell the others' frames from theirs."""
PROBE_FRAMES = 1 << 18
"""Frames that a probe reads; blocks are read whole, so it may be a block more."""
MEMBER_BYTES = 2048
"""Bytes of a tar shard for a game, besides the game: headers, padding and its entry."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """What an experiment has to train on."""

    is_exact: bool
    """Counted; else told from a sample."""
    games: int
    """Games that train or validate."""
    frames: int
    """Their frames."""
    block_bytes: int
    """Bytes of their blocks."""
    work: Work
    """What a run has to do."""
    dataset: Dataset
    """Games that can be trained on here: some of them, or the sample."""


def measure_extent(source: Location, config: ExperimentConfig, scratch: Path) -> Extent:
    """How much there is at `source` for an experiment. `scratch`: an empty folder for the sample's blocks.

    Raises:
        UserError: it holds neither blocks nor parsed games nor shards, or nothing to train the experiment on.
    """
    if has_index(source):
        return _count(source, config)
    if holds_replays(source) or source.name.endswith(".pt"):
        raise UserError(f"{source} is no folder of blocks or parsed games: encode it first, with `worldmodel encode`")
    sample = _sample(source, scratch, config)
    if sample.is_all:
        return _count(Location.of(scratch), config)
    return _scale(sample, Location.of(scratch), config)


def _count(where: Location, config: ExperimentConfig) -> Extent:
    index = read_index(where)
    games = select_games(index.games, filter_of(config.data))
    split = split_games(games, config.training.train_split, config.data.split, config.training.test_split)
    plan = Plan(split.train, sample_shape(config), config.training.batch_size, config.training.seed)
    validation = count_predicted([game.frames for game in choose_validated(split, config)], plan.shape)
    frames = sum(game.frames for game in games)
    return Extent(
        is_exact=True,
        games=len(games),
        frames=frames,
        block_bytes=round(frames * index.bytes_per_frame),
        work=Work.of(
            plan,
            Schedule.of(config.training, plan.steps_per_epoch).total_steps,
            validation,
            count_rolled(config.training),
        ),
        dataset=_take_part(where, index, split),
    )


def _take_part(where: Location, index: Index, split: Split) -> Dataset:
    """So many games as a probe needs; of blocks that lie elsewhere only theirs are fetched."""
    part = Split(train=_take_games(split.train), validation=_take_games(split.validation))
    return Dataset(blocks=str(where), shelf=open_shelf(where), index=index, split=part)


def _take_games(games: Sequence[GameEntry]) -> list[GameEntry]:
    """Whole blocks' games, until they have `PROBE_FRAMES`."""
    taken: list[GameEntry] = []
    for block in dict.fromkeys(game.block for game in games):
        if sum(game.frames for game in taken) < PROBE_FRAMES:
            taken += [game for game in games if game.block == block]
    return taken


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """Some games of a source, encoded."""

    games: int
    """Games of the whole source."""
    is_all: bool
    """Whether all of them were encoded."""
    share: float
    """Share (0 to 1) of the source's frames that the sample has."""


def _sample(source: Location, scratch: Path, config: ExperimentConfig) -> _Sample:
    listing = list_source(str(source))
    units = listing.units
    if not units:
        raise UserError(f"{source} holds no game to train on ({len(listing.rejected)} rejected)")
    is_plain = filter_of(replace(config.data, max_games=None)) == filter_of(type(config.data)())
    if units[0].kind == "parsed" and is_plain:
        units = units[: config.data.max_games]
    writer = BlockWriter(Location.of(scratch))
    sample = _sample_shards(units, writer) if units[0].kind == "tar" else _sample_parsed(units, writer)
    writer.close()
    if not writer.games:
        raise UserError(f"{source}: none of {SAMPLE_GAMES} games can be read; `worldmodel encode` says why")
    games = sorted(
        writer.games, key=lambda game: (game.order, game.place)
    )  # the order of the source, as encode keeps it
    write_index(Location.of(scratch), Index(games=games, blocks=writer.blocks))
    return sample


def _sample_parsed(units: Sequence[Unit], writer: BlockWriter) -> _Sample:
    """Games all over the source, weighted by the frames that meta.json gives, or else by their files' sizes."""
    count = min(SAMPLE_GAMES, len(units))
    chosen = [units[k * len(units) // count] for k in range(count)]
    weights = {unit.name: _weigh(unit, "lastFrame") for unit in units}
    if not all(weights.values()):
        weights = {unit.name: unit.bytes for unit in units}
    for reading in read_games(chosen):
        if reading.game:
            writer.add(reading.game, reading)
    share = sum(weights[unit.name] for unit in chosen) / sum(weights.values())
    return _Sample(games=len(units), is_all=len(chosen) == len(units), share=share)


def _weigh(unit: Unit, key: str) -> int:
    value = unit.entry.get(key)
    return value if isinstance(value, int) and value > 0 else 0


def _sample_shards(units: Sequence[Unit], writer: BlockWriter) -> _Sample:
    """The first games of the shards, weighted by their bytes."""
    read = games = 0
    for reading, size in islice(_read_shards(units), SAMPLE_GAMES):
        read, games = read + size, games + 1
        if reading.game:
            writer.add(reading.game, reading)
    share = min(1.0, read / sum(unit.bytes for unit in units))
    is_all = games < SAMPLE_GAMES
    return _Sample(games=games if is_all else round(games / share), is_all=is_all, share=1.0 if is_all else share)


def _read_shards(units: Sequence[Unit]) -> Iterator[tuple[Reading, int]]:
    for unit in units:
        for place, member in enumerate(iterate_shard(Location.of(unit.uri))):
            if member.reason or member.entry.get("is_training", True) is False:
                continue
            try:
                game = read_game(member.data, member.name, member.entry, member.frame_ids)
            except GameError:
                continue
            size = len(member.data) + MEMBER_BYTES
            yield Reading(file=member.name, unit=unit, game=game, place=place), size


def _scale(sample: _Sample, where: Location, config: ExperimentConfig) -> Extent:
    """The whole from a sample: filters and split take of all games what they take of these."""
    index, chosen = read_index(where), config.data
    games = select_games(index.games, replace(filter_of(chosen), max_games=None))
    found = sample.games * len(games) / len(index.games)
    kept = min(1.0, chosen.max_games / found) if chosen.max_games else 1.0
    factor = kept / sample.share
    split = split_games(games, config.training.train_split, "first")
    everything = Plan(games, sample_shape(config), config.training.batch_size, config.training.seed)
    test_share = config.training.test_split if chosen.split == "md5" else 0.0
    train = factor * (config.training.train_split - test_share)
    steps = ceil(train * everything.samples / config.training.batch_size)
    validation = count_predicted([game.frames for game in games], everything.shape)
    unseen = found * kept * (1 - config.training.train_split)
    part = min(unseen, config.training.validation_games or unseen) / unseen
    frames = factor * sum(game.frames for game in games)
    return Extent(
        is_exact=False,
        games=round(found * kept),
        frames=round(frames),
        block_bytes=round(frames * index.bytes_per_frame),
        work=Work(
            total_steps=Schedule.of(config.training, steps).total_steps,
            steps_per_epoch=steps,
            epoch_targets=round(train * everything.epoch_targets),
            validation_targets=round(part * factor * (1 - config.training.train_split) * validation),
            rollout_frames=count_rolled(config.training),
        ),
        dataset=_take_part(where, index, split),
    )
