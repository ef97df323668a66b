"""Poses: every action that a frame can hold has one."""

from __future__ import annotations

from worldmodel.film.look import GONE, POSES, describe_look, find_pose
from worldmodel.film.page import read_asset
from worldmodel.games.toy_tables import ATTACKS, Action


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
