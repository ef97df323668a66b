"""An option that is given twice is never dropped without a word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
from tyro.conf import Positional, UseAppendAction

from tune.options import plan_grid, read_defaults
from tune.round1 import Round1
from tune.round1 import main as round1
from worldmodel.cli.arguments import join_repeated, parse_arguments
from worldmodel.cli.blocks import Encode
from worldmodel.cli.main import main, parse
from worldmodel.errors import UserError


@dataclass(frozen=True)
class Asked:
    """Options of every kind."""

    place: Positional[str] = ""
    many: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    each: Annotated[tuple[str, ...], UseAppendAction] = ()
    one: str = ""
    switch: bool = False


@pytest.mark.parametrize(
    "arguments",
    [
        "x --many a b",
        "x --many a --many b",
        "x --many=a --many=b",
        "x --many a --one 1 --many b",
        "--many a --one 1 x --many b",
    ],
)
def test_values_of_all_occurrences_count(arguments: str) -> None:
    found = parse_arguments(Asked, arguments.split())
    assert (found.place, found.many) == ("x", ("a", "b"))


def test_what_tyro_joins_itself_and_switches_stay() -> None:
    found = parse_arguments(
        Asked, ["--each", "a", "--each", "b", "--switch", "--switch", "--numbers", "-1", "--numbers", "-2"]
    )
    assert (found.each, found.switch, found.numbers) == (("a", "b"), True, (-1, -2))


@pytest.mark.parametrize("arguments", ["--one a --one b", "--one=a --one=a", "--one a --switch --one b"])
def test_an_option_of_one_value_is_refused_twice(arguments: str) -> None:
    with pytest.raises(UserError, match=r"--one: given twice \(--one.a; --one.[ab]\), expected once"):
        parse_arguments(Asked, arguments.split())


def test_arguments_without_a_repetition_stay_as_they_are() -> None:
    given = ["x", "--one=--odd", "--many", "a=b", "--switch"]
    assert join_repeated(Asked, given) == given


def test_verbs_know_their_own_options(capsys: pytest.CaptureFixture[str]) -> None:
    found = parse(["encode", "G", "B", "--allow", "x", "--allow", "y"])
    assert isinstance(found, Encode) and found.allow == ("x", "y")
    assert main(["games", "toy", "OUT", "--count", "1", "--count", "2"]) == 2
    assert main(["encode", "G", "B", "--max-rejected", "0", "--max_rejected", "1"]) == 2
    assert capsys.readouterr().err.count("given twice") == 2


def test_a_grid_takes_all_its_settings() -> None:
    asked = "--set training.lr=1e-4 --experiments baseline --set training.batch_size=4 --experiments 1a --allow x"
    options = parse_arguments(Round1, asked.split(), default=read_defaults(Round1))
    assert options.names == ("baseline", "1a")
    plan = plan_grid(options, "blocks", {})
    assert plan.settings == {"training.lr": 1e-4, "training.batch_size": 4} and plan.options["data.allow"] == ["x"]


def test_a_grid_s_impossible_setting_is_seen_wherever_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    assert round1(["--dry-run", "--set", "training.lr=-5", "--set", "training.batch_size=4"]) == 2
    assert "training.lr: found -5" in capsys.readouterr().err
    assert round1(["--dry-run", "--set", "training.lr=1", "--set", "training.lr=2"]) == 2
    assert "training.lr" in capsys.readouterr().err
