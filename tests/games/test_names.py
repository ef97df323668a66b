"""Names: the numbers of games as players know them."""

from __future__ import annotations

import pytest

from worldmodel.games.names import FIRST_SPECIAL, find_action, name_action, name_character, name_stage
from worldmodel.schema import FIELDS, LEGAL_STAGES

FOX, FALCO, SHEIK, SAMUS, MARTH, YOUNG_LINK, GAME_AND_WATCH = 1, 22, 7, 13, 18, 20, 24


def test_names_stand_at_the_numbers_that_the_game_gives_them() -> None:
    known = {
        0: "DeadDown", 14: "Wait", 20: "Dash", 44: "Attack11", 65: "AttackAirN", 88: "DamageFlyN", 179: "Guard",
        199: "Passive", 212: "Catch", 236: "EscapeAir", 253: "CliffWait", 322: "Entry", 340: "BarrelCannonWait",
    }  # fmt: skip
    assert {number: find_action(number) for number in known} == known
    assert (FIRST_SPECIAL, find_action(341), find_action(450)) == (341, "Special341", "Special450")


@pytest.mark.parametrize(
    ("character", "action", "name"),
    [
        (FOX, 66, "forward air"), (FOX, 57, "down tilt"), (FOX, 233, "roll F"), (FOX, 29, "fall"),
        (FOX, 345, "Blaster air loop"), (FALCO, 353, "Fire Bird start"), (FOX, 375, "taunt end left"),
        (SHEIK, 364, "Transform air end"), (SAMUS, 358, "air grab hit"), (MARTH, 366, "Dancing Blade air 4 down"),
        (YOUNG_LINK, 359, "Bomb air"), (GAME_AND_WATCH, 380, "Oil Panic air spill"),
    ],
)  # fmt: skip
def test_an_action_has_the_name_that_players_use(character: int, action: int, name: str) -> None:
    assert name_action(action, character) == name


@pytest.mark.parametrize(
    ("character", "action", "name"),
    [
        (FOX, 376, "Fox special 376"), (2, 341, "Captain Falcon special 341"), (200, 345, "character 200 special 345"),
        (17, 345, "Green Missile 345"),
    ],
)  # fmt: skip
def test_an_unknown_state_keeps_its_number(character: int, action: int, name: str) -> None:
    assert name_action(action, character) == name


@pytest.mark.parametrize("character", range(27))
def test_no_two_actions_of_a_character_share_a_name(character: int) -> None:
    names = [name_action(action, character) for action in range(FIELDS["action"].vocabulary)]
    own = names[FIRST_SPECIAL:]
    assert all(names) and len(own) == len(set(own))


def test_characters_and_stages_have_names() -> None:
    assert (name_character(1), name_character(22), name_character(200)) == ("Fox", "Falco", "character 200")
    assert {number: name_stage(number) for number in LEGAL_STAGES} == LEGAL_STAGES
    assert [name_stage(n) for n in (4, 13, 27, 21, 99)] == [
        "Princess Peach's Castle", "Great Bay", "Flat Zone", "stage 21", "stage 99"
    ]  # fmt: skip
