"""Zeros that mean "not recorded" are told from zeros that are values."""

from __future__ import annotations

import numpy as np
import pytest

from tests.games_on_disk import Columns, as_file, toy_columns
from worldmodel.games.parsed import read_game
from worldmodel.schema import PLAYER_FIELDS, Evidence

FRAMES = 60
SPEEDS = ["speed_air_x", "speed_y", "speed_ground_x", "speed_attack_x", "speed_attack_y"]
COMBAT = ["hitstun_remaining", *(f"state_flags_{byte}" for byte in range(5))]


def find_missing(columns: Columns, **entry: object) -> frozenset[str]:
    return read_game(as_file(columns), "game", dict(entry)).missing


def without(*names: str, player: int = 0, **changes: np.ndarray) -> Columns:
    columns = toy_columns(1, FRAMES)
    for name in names:
        columns[f"p{player}", name] = np.zeros_like(columns[f"p{player}", name])
    for path, values in changes.items():
        owner, name = path.split("_", 1)
        columns[owner, name] = values.astype(columns[owner, name].dtype)
    return columns


def test_a_game_that_records_everything_misses_nothing() -> None:
    assert find_missing(toy_columns(1, FRAMES)) == frozenset()


@pytest.mark.parametrize(
    "name", [f.name for f in PLAYER_FIELDS if f.absence is Evidence.ALWAYS and f.name not in COMBAT]
)
def test_zeros_where_no_game_has_them_throughout_are_missing(name: str) -> None:
    assert find_missing(without(name)) == {f"p0.{name}"}


def test_hitlag_is_missing_only_where_players_were_hit() -> None:
    level = np.full(FRAMES, 7)
    assert find_missing(without("hitlag")) == {"p0.hitlag"}
    assert find_missing(without("hitlag", p0_percent=level, p1_percent=level)) == frozenset()


def test_fields_that_a_replay_has_together_are_missing_only_together() -> None:
    assert find_missing(without(*SPEEDS)) == {f"p0.{name}" for name in SPEEDS}
    assert find_missing(without(*SPEEDS[1:])) == frozenset()
    assert find_missing(without(*COMBAT, player=1)) == {f"p1.{name}" for name in COMBAT}
    assert find_missing(without(*COMBAT[1:])) == frozenset()


def test_speeds_of_a_player_who_stands_still_are_values() -> None:
    still = np.full(FRAMES, 3.0)
    assert find_missing(without(*SPEEDS, p0_x=still, p0_y=still)) == frozenset()


def test_combo_and_last_attack_belong_to_the_one_who_hits() -> None:
    hit = np.arange(FRAMES)
    names = ("combo_count", "last_attack_landed")
    assert find_missing(without(*names, p1_percent=hit)) == {f"p0.{name}" for name in names}
    assert find_missing(without(*names, p1_percent=hit * 0)) == frozenset()


def test_ground_is_missing_only_where_a_player_left_it() -> None:
    assert find_missing(without("ground", p0_on_ground=np.ones(FRAMES))) == frozenset()
    assert find_missing(without("ground", p0_on_ground=np.arange(FRAMES) % 2)) == {"p0.ground"}


def test_l_cancel_is_missing_only_where_an_aerial_attack_landed() -> None:
    action = np.full(FRAMES, 20)
    assert find_missing(without("l_cancel", p0_action=action)) == frozenset()
    action[5] = 72
    assert find_missing(without("l_cancel", p0_action=action)) == {"p0.l_cancel"}


def test_invulnerability_is_missing_only_where_a_player_came_back() -> None:
    names = ("invulnerable", "hurtbox_state")
    stocks = np.full(FRAMES, 4)
    assert find_missing(without(*names, p0_stocks=stocks)) == frozenset()
    stocks[30:] = 3
    assert find_missing(without(*names, p0_stocks=stocks)) == {f"p0.{name}" for name in names}


def test_meta_json_says_what_is_missing_by_our_name_by_that_of_peppi_or_by_version() -> None:
    still = {"p0_percent": np.full(FRAMES, 7), "p1_percent": np.full(FRAMES, 7)}
    columns = without("hitlag", **still)
    for entry in (
        {"missing_fields": ["hitlag"]},
        {"missing_fields": ["leader.post.hitlag"]},
        {"slippi_version": "3.7.0"},
    ):
        assert find_missing(columns, **entry) == {"p0.hitlag"}
    for entry in ({"slippi_version": "3.8.0"}, {"slippi_version": "odd"}, {"missing_fields": "hitlag"}):
        assert find_missing(columns, **entry) == frozenset()


def test_what_meta_json_calls_missing_but_the_file_holds_is_kept() -> None:
    assert find_missing(toy_columns(1, FRAMES), missing_fields=["hitlag"]) == frozenset()
