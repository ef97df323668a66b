"""Which games train and which validate, and which games an experiment uses at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from worldmodel.blocks.index import GameEntry, split_position
from worldmodel.errors import UserError


@dataclass(frozen=True, kw_only=True)
class GameFilter:
    """Which games of a data set an experiment uses; None: any."""

    stages: frozenset[int] | None = None
    characters: frozenset[int] | None = None
    """Both players' characters must be among these."""
    end_method: int | None = None
    max_games: int | None = None
    """The first so many in the data's own order."""


def select_games(games: Sequence[GameEntry], chosen: GameFilter) -> list[GameEntry]:
    """The games that pass, in the data's own order. UserError where none does."""
    found = [game for game in games if _passes(game, chosen)][: chosen.max_games]
    if not found:
        raise UserError(f"no game of {len(games)} passes the filters of section `data`: {chosen}")
    return found


def _passes(game: GameEntry, chosen: GameFilter) -> bool:
    return (
        (chosen.stages is None or game.stage in chosen.stages)
        and (chosen.characters is None or set(game.characters) <= chosen.characters)
        and (chosen.end_method is None or game.end_method == chosen.end_method)
    )


@dataclass(frozen=True, kw_only=True)
class Split:
    """Games by purpose; no game has two."""

    train: list[GameEntry]
    validation: list[GameEntry]
    """Settings and checkpoints are chosen on these."""
    test: list[GameEntry] = field(default_factory=list)
    """Nothing is chosen on these."""


def split_games(
    games: Sequence[GameEntry], train_share: float, by: Literal["md5", "first"], test_share: float = 0.0
) -> Split:
    """Cut games into training, validation and test.

    "md5": a game's own hash decides, so it is on the same side in every data set that holds it; the test part comes out
    of the training games and may be empty in a small data set. "first": the first `train_share` of the games in the
    data's own order train, as the users published, without a test part. Training and validation get at least one game.
    """
    if len(games) < 2:
        raise UserError(f"{len(games)} game cannot be split: one is needed to train on and another to validate on")
    if by == "first":
        cut = min(max(1, int(len(games) * train_share)), len(games) - 1)
        return check_disjoint(Split(train=list(games[:cut]), validation=list(games[cut:])))
    if test_share and test_share >= train_share:
        raise UserError(
            f"training.test_split: found {test_share}, expected less than training.train_split {train_share}: the test "
            "games are taken from those"
        )
    ranked = sorted(games, key=lambda game: split_position(game.md5))
    count = sum(split_position(game.md5) < 1 - train_share for game in games)
    count = min(max(1, count), len(games) - 1)
    validation = {game.md5 for game in ranked[:count]}
    test = {game.md5 for game in ranked[count + 1 :] if split_position(game.md5) >= 1 - test_share}
    found = Split(
        train=[game for game in games if game.md5 not in validation | test],
        validation=[game for game in games if game.md5 in validation],
        test=[game for game in games if game.md5 in test],
    )
    return check_disjoint(found)


def sample_games(games: Sequence[GameEntry], count: int | None) -> list[GameEntry]:
    """The `count` games whose hashes are smallest, in the given order; all games if `count` is None."""
    chosen = {game.md5 for game in sorted(games, key=lambda game: split_position(game.md5))[:count]}
    return [game for game in games if game.md5 in chosen]


def check_disjoint(split: Split) -> Split:
    """The split; UserError where a game has two purposes, under its own md5 or, value for value, under another."""
    trained = {name: game.md5 for game in split.train for name in _names(game)}
    for part, games in (("validates", split.validation), ("tests", split.test)):
        for game in games:
            other = next((trained[name] for name in _names(game) if name in trained), None)
            if other is not None:
                raise UserError(
                    f"game {game.md5} {part} and trains as well (as {other}): results would look better than they "
                    "are; remove one of the two from the games and encode again"
                )
    return split


def _names(game: GameEntry) -> list[str]:
    return [game.md5, *([game.digest] if game.digest else [])]
