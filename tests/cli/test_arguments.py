"""Arguments: an option that is given twice, addresses that cannot be used, and the help texts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from tyro.conf import Positional, UseAppendAction

from cluster.up import main as up
from tune.grid import main as grid
from tune.options import plan_grid, read_defaults
from tune.round1 import Round1
from tune.round1 import main as round1
from worldmodel.cli.arguments import _list_verbs, join_repeated, parse_arguments
from worldmodel.cli.blocks import Encode
from worldmodel.cli.main import Command, Games, main, parse
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


COMMANDS = [
    [],
    ["games"],
    *([*group, verb] for group, kind in (([], Command), (["games"], Games)) for verb, _ in _list_verbs(kind)),
]
NOISE = re.compile(r"\{None|None[:\]}]|default: (None|''|\))|\[\[|--(\S+), --no-|\b(STR|INT|FLOAT|PATH|BOOL)\b|empty: ")
"""What only a reader of our code understands."""


@pytest.mark.parametrize(
    ("run", "command"),
    [*((main, command) for command in COMMANDS), (grid, []), (round1, []), (up, [])],
    ids=lambda given: " ".join(given) if isinstance(given, list) else given.__module__,
)
def test_help_has_no_python_values(run: Any, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run([*command, "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert (caught.value.code, NOISE.findall(shown)) == (0, [])
    assert len(shown) > 100


ADDRESSED = """
games toy {} | games parse {} out | games pack {} out | games pack games {} | upload games {} | encode {} out
encode games {} | audit {} | audit blocks --against {} | doctor --storage {} | doctor --cluster {} | config {}
plan {} | plan exp.yaml --data {} | train {} | train exp.yaml --storage {} | train exp.yaml --init {} | evaluate {}
evaluate run --data {} | rollout {} | rollout run --out {} | film {} | film run --out {} | play {} | play run --out {}
runs --storage {} | show {} | tail {} | stop {} | compare {} run | leaderboard {} | fetch {} out | fetch run {}
export {} out.pt | export run {}
"""
MISSING = """
games parse no/x out | games pack no/x out | upload no/x out | encode no/x out | audit no/x | config no/x
doctor --cluster no/x | plan no/x | train no/x | evaluate no/x | rollout no/x | film no/x | play no/x
runs --storage no/x | show no/x | tail no/x | stop no/x | compare no/x no/y | leaderboard no/x | fetch no/x out
export no/x out.pt
"""


def list_lines(text: str) -> list[str]:
    return [part.strip() for line in text.split("\n") for part in line.split("|") if part.strip()]


@pytest.mark.parametrize("place", ["s3:/x", "gs:x", "https://host/x"])
@pytest.mark.parametrize("command", list_lines(ADDRESSED))
def test_addresses_are_checked_first(command: str, place: str) -> None:
    with pytest.raises(UserError, match=re.escape(place.split("://")[0].split(":")[0])):
        parse(command.format(place).split())


def test_a_grid_checks_its_addresses_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert grid(["1a", "--data", "s3:/x"]) == 2
    assert capsys.readouterr().err == "error: s3:/x lacks a slash: write s3://BUCKET/FOLDER\n"


@pytest.mark.parametrize("command", list_lines(MISSING))
def test_a_missing_path_is_one_message(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and ("no/x" in line or "there is no run" in line)
    assert list(tmp_path.iterdir()) == []
