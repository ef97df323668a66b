"""Which games train and which validate."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.features.test_plan import game
from worldmodel.blocks.index import PARTITIONS, GameEntry, partition_of, split_position
from worldmodel.errors import UserError
from worldmodel.features.split import GameFilter, sample_games, select_games, split_games

POOL = [game(number, 100) for number in range(400)]


@given(first=st.integers(60, 200), more=st.integers(0, 200), share=st.floats(0.5, 0.95))
def test_a_game_stays_on_its_side_when_games_are_added(first: int, more: int, share: float) -> None:
    small, large = split_games(POOL[:first], share, "md5"), split_games(POOL[: first + more], share, "md5")
    if len(small.validation) > 1:
        assert {g.md5 for g in small.validation} <= {g.md5 for g in large.validation}
        assert {g.md5 for g in small.train} <= {g.md5 for g in large.train}


@given(
    count=st.integers(2, 60), share=st.floats(0.001, 1), by=st.sampled_from(["md5", "first"]), tested=st.floats(0, 0.99)
)
def test_each_game_has_one_purpose(count: int, share: float, by: str, tested: float) -> None:
    split = split_games(POOL[:count], share, by, tested * share)  # type: ignore[arg-type]
    assert sorted(g.order for g in (*split.train, *split.validation, *split.test)) == list(range(count))
    assert split.train and split.validation
    assert not (split.test and by == "first")


@given(first=st.integers(60, 200), more=st.integers(0, 200))
def test_test_games_come_out_of_the_training_games(first: int, more: int) -> None:
    without = split_games(POOL[: first + more], 0.9, "md5")
    small, large = (split_games(POOL[:count], 0.9, "md5", 0.1) for count in (first, first + more))
    assert large.validation == without.validation
    assert {g.md5 for g in small.test} <= {g.md5 for g in large.test} <= {g.md5 for g in without.train}


def test_a_test_part_larger_than_what_it_is_taken_from_is_refused() -> None:
    with pytest.raises(UserError, match=r"training.test_split: found 0.5"):
        split_games(POOL, 0.5, "md5", 0.5)


def test_the_share_holds_over_many_games() -> None:
    split = split_games(POOL, 0.9, "md5", 0.1)
    assert all(abs(len(part) / len(POOL) - 0.1) < 0.04 for part in (split.validation, split.test))


def test_first_takes_the_first_games_as_the_users_published() -> None:
    split = split_games(POOL[:10], 0.9, "first")
    assert [g.order for g in split.train] == list(range(9))


def test_validation_does_not_favour_a_partition() -> None:
    kept = [partition_of(g.md5) for g in POOL if split_position(g.md5) < 0.5]
    assert min(kept.count(partition) for partition in range(PARTITIONS)) > 200 / PARTITIONS / 2


@given(count=st.integers(1, 60), games=st.lists(st.sampled_from(POOL), min_size=1, unique=True), data=st.data())
def test_a_sample_is_one_of_the_games_and_grows(count: int, games: list[GameEntry], data: st.DataObject) -> None:
    found = sample_games(games, count)
    assert len(found) == min(count, len(games))
    assert found == [g for g in games if g in found]
    shuffled = data.draw(st.permutations(games))
    assert {g.md5 for g in sample_games(shuffled, count)} == {g.md5 for g in found}
    assert {g.md5 for g in found} <= {g.md5 for g in sample_games(games, count + 1)}
    assert sample_games(games, None) == games


def test_one_game_cannot_be_split() -> None:
    with pytest.raises(UserError, match="1 game cannot be split"):
        split_games(POOL[:1], 0.9, "md5")


def test_filters_choose_by_stage_characters_end_and_number() -> None:
    games = [
        replace(POOL[0], stage=2),
        replace(POOL[1], characters=(1, 9)),
        replace(POOL[2], end_method=7),
        POOL[3],
        POOL[4],
    ]
    found = select_games(
        games,
        GameFilter(stages=frozenset({31}), characters=frozenset({1, 2}), end_method=2, max_games=1),
    )
    assert found == [POOL[3]]
    with pytest.raises(UserError, match="no game of 5 passes"):
        select_games(games, GameFilter(stages=frozenset({28})))
