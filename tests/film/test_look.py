"""Names and poses: every action that a frame can hold has both."""

from __future__ import annotations

from worldmodel.film.look import GONE, POSES, describe_look, find_pose
from worldmodel.film.names import FIRST_SPECIAL, find_action, name_action, name_character
from worldmodel.film.page import read_asset
from worldmodel.games.toy_tables import ATTACKS, Action


def test_names_stand_at_the_numbers_that_the_game_gives_them() -> None:
    known = {
        0: "DeadDown", 14: "Wait", 20: "Dash", 44: "Attack11", 65: "AttackAirN", 88: "DamageFlyN", 179: "Guard",
        199: "Passive", 212: "Catch", 236: "EscapeAir", 253: "CliffWait", 322: "Entry", 340: "BarrelCannonWait",
    }  # fmt: skip
    assert {number: find_action(number) for number in known} == known
    assert (FIRST_SPECIAL, find_action(341), find_action(450)) == (341, "Special341", "Special450")


def test_names_are_words_for_people() -> None:
    assert name_action(66) == "attack air F"
    assert name_action(233) == "escape F"
    assert (name_character(1), name_character(22), name_character(200)) == ("Fox", "Falco", "character 200")


def test_every_action_has_a_pose_and_every_pose_is_some_actions() -> None:
    poses = {find_pose(action) for action in range(500)}
    assert poses == POSES.keys()


def test_toy_attacks_strike_and_the_dead_are_gone() -> None:
    striking = [action for action in ATTACKS if action not in (Action.GRAB,)]
    assert all(POSES[find_pose(action)].strikes for action in striking)
    assert {find_pose(action) for action in (0, 1, 2, 3, 7)} == {GONE}
    assert find_pose(Action.GUARD) == "guard"


def test_the_page_draws_the_joints_that_the_poses_have() -> None:
    code, joints = read_asset("scene.js"), describe_look()["poses"]["stand"]["a"]
    assert all(f'"{name}"' in code or f"joints.{name}" in code for name in joints)
