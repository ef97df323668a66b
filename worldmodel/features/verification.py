"""`worldmodel audit`: blocks against their games, down to the features that a model would see."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from worldmodel.blocks.index import Index, read_index
from worldmodel.blocks.task import BlockWriter
from worldmodel.blocks.verification import Difference, VerificationReport, verify_blocks
from worldmodel.encoding import EncodingConfig
from worldmodel.features.plan import Samples
from worldmodel.features.store import FrameStore, StoreOptions
from worldmodel.features.view import FeatureView
from worldmodel.games.source import Reading
from worldmodel.storage import Location

CONFIG = EncodingConfig(press_events=True, lookahead=1, projectiles=True, state_flags=True, hitstun=True)
"""Every flag that adds a feature; `state_age` is compared as a number, of which its embedding is a part."""
FRAMES = 64
"""Frames of a compared sample."""


def audit_blocks(
    blocks: str, against: str | None = None, sample: int | None = None, feature_samples: int = 256
) -> VerificationReport:
    """Check a folder of blocks: hashes; where `against` names their games, every value and random samples' features.

    `sample`: compare so many games; None: all. The features are computed once from the blocks and once from a fresh
    encoding of games read anew. UserError where there are no blocks, or no games to compare with.
    """
    report = verify_blocks(blocks, against, sample, EncodingConfig().layout.field_names)
    if report.fresh and not report.difference_count:
        with tempfile.TemporaryDirectory(prefix="worldmodel-audit-") as folder:
            _compare_features(blocks, Path(folder), feature_samples, report)
    report.fresh.clear()
    return report


def _compare_features(blocks: str, folder: Path, count: int, report: VerificationReport) -> None:
    names = [reading.game.md5 for reading in report.fresh if reading.game is not None]
    stored = _fetch(blocks, names, folder / "stored")
    fresh = _encode_afresh(report.fresh, folder / "fresh")
    games = [game for name in names for game in stored.games if game.md5 == name]
    dice = np.random.default_rng(0)
    places = dice.integers(0, len(games), count)
    starts = (dice.random(count) * [games[place].frames for place in places]).astype(np.int64)
    samples = Samples(places, starts)
    view = FeatureView(CONFIG)
    first, second = (
        view.decode(_open(where, index, names), samples, FRAMES)
        for where, index in ((folder / "fresh", fresh), (_local(blocks, folder), stored))
    )
    for kind, a, b in (("numbers", first.numbers, second.numbers), ("classes", first.classes, second.classes)):
        for place in (a != b).flatten(1).any(1).nonzero()[:, 0].tolist():
            time, column = (int(at) for at in (a[place] != b[place]).nonzero()[0])
            detail = f"{a[place, time, column]}; from the blocks {b[place, time, column]}"
            frame = int(starts[place]) + time
            name = names[int(places[place])]
            report.add(Difference(game=name, field=f"features.{kind}[{column}]", frame=frame, detail=detail))
    report.samples_checked += count


def _local(blocks: str, folder: Path) -> Path:
    return Location.of(blocks).local_path() or folder / "stored"


def _fetch(blocks: str, names: list[str], folder: Path) -> Index:
    """The index of some stored games; their blocks are downloaded where they are not on this machine."""
    location = Location.of(blocks)
    index = read_index(location)
    games = [game for game in index.games if game.md5 in names]
    needed = {game.block for game in games}
    if location.local_path() is None:
        for name in needed:
            (location / name).copy_to(folder / name)
    return Index(games=games, blocks=[block for block in index.blocks if block.name in needed])


def _encode_afresh(readings: list[Reading], folder: Path) -> Index:
    writer = BlockWriter(Location.of(folder))
    for reading in readings:
        if reading.game is not None:
            writer.add(reading.game, reading)
    writer.close()
    return Index(games=writer.games, blocks=writer.blocks)


def _open(folder: Path, index: Index, names: list[str]) -> FrameStore:
    games = [game for name in names for game in index.games if game.md5 == name]
    return FrameStore(folder, index, games, StoreOptions(with_items=True, resident_bytes=0))
