"""What meta.json says is understood in whatever JSON types a tool has written it, or named where it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.games_on_disk import as_file, encode_here, name_of, toy_columns, write_folder
from worldmodel.errors import UserError
from worldmodel.games.entry import find_unfit, read_version, read_whole
from worldmodel.games.parsed import read_game


@pytest.mark.parametrize(
    "version",
    [
        "3.7.0", [3, 7, 0], (3, 7), "v3.7.0-beta", {"build": 0, "major": 3, "minor": 7}, ["3", "7", "0"], " 3.7 ",
        "(3, 7, 0)", "[3, 7]", "3,7",
    ],
)  # fmt: skip
def test_a_version_before_a_field_masks_it_in_every_form(version: object) -> None:
    columns = toy_columns(1, 60)
    columns["p0", "hitlag"] = np.zeros(60, dtype=np.float32)
    columns["p0", "percent"][:], columns["p1", "percent"][:] = 7, 7  # nobody is hit: the zeros alone prove nothing
    assert read_game(as_file(columns), "game", {"slippi_version": version}).missing == {"p0.hitlag"}
    assert read_game(as_file(columns), "game", {"slippi_version": [3, 8, 0]}).missing == frozenset()


@pytest.mark.parametrize("version", [None, "odd", [], ["odd"], 7, True])
def test_what_is_no_version_is_none(version: object) -> None:
    assert read_version(version) in ((), (7,))


@pytest.mark.parametrize("flag", [False, 0, 0.0])
def test_a_false_flag_keeps_a_game_from_training(flag: object) -> None:
    found = find_unfit({"is_training": flag, "not_training_reason": "a bot"})
    assert found is not None and found.is_on_purpose and found.reason == "not for training: a bot"


@pytest.mark.parametrize("entry", [{}, {"is_training": True}, {"is_training": 1}, {"is_training": 1.0}])
def test_a_true_flag_or_none_trains(entry: dict[str, object]) -> None:
    assert find_unfit(entry) is None


@pytest.mark.parametrize("flag", ["false", "true", None, 2, [], {}])
def test_what_is_no_flag_is_named(tmp_path: Path, flag: object) -> None:
    content = as_file(toy_columns(1, 40))
    write_folder(tmp_path / "games", {name_of(content): content}, {name_of(content): {"is_training": flag}})
    with pytest.raises(UserError, match=r"is_training is .* in meta.json, expected true or false"):
        encode_here(tmp_path / "games", tmp_path / "blocks")
    assert encode_here(tmp_path / "games", tmp_path / "blocks", training_only=False).index.games


@pytest.mark.parametrize(("found", "number"), [(7, 7), (7.0, 7), ("7", 7), (7.5, None), ("x", None), (True, None)])
def test_a_whole_number_is_read_in_every_form(found: object, number: int | None) -> None:
    assert read_whole(found) == number


@pytest.mark.parametrize("found", [float("nan"), float("inf"), 10**400, "nan", None, []])
def test_what_is_no_whole_number_is_none(found: object) -> None:
    assert read_whole(found) is None
