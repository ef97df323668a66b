"""What a grid takes from its environment where the command line says nothing, as it does on a cluster."""

from __future__ import annotations

import pytest
import tyro

from tune.grid import main
from tune.options import DATA, GPUS, SCALE, STORAGE, check_search, check_size, plan_grid, read_defaults
from tune.round1 import Round1
from worldmodel.errors import UserError
from worldmodel.experiment.layers import read_settings


def ask(*arguments: str) -> Round1:
    """What those arguments ask for, in this environment."""
    return tyro.cli(Round1, args=arguments, default=read_defaults(Round1))


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster has said anything."""
    for name in (DATA, GPUS, SCALE, STORAGE):
        monkeypatch.delenv(name, raising=False)


def test_the_same_command_does_on_a_cluster_what_the_cluster_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    at_home = ask()
    assert (at_home.data, at_home.place, at_home.gpus_per_trial, at_home.scale_name) == ("", "runs", 0.0, "laptop")
    for name, value in ((DATA, "s3://b/games"), (STORAGE, "s3://b/runs"), (GPUS, "0.25"), (SCALE, "round1")):
        monkeypatch.setenv(name, value)
    there = ask()
    assert (there.data, there.place) == ("s3://b/games", "s3://b/runs")
    assert (there.gpus_per_trial, there.scale_name) == (0.25, "published")


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ((DATA, "s3://b/games"), (STORAGE, "s3://b/runs"), (GPUS, "1"), (SCALE, "round1")):
        monkeypatch.setenv(name, value)
    said = ask("--data", "here", "--storage", "there", "--gpus-per-trial", "0", "--scale", "laptop")
    assert (said.data, said.place, said.gpus_per_trial, said.scale_name) == ("here", "there", 0.0, "laptop")


@pytest.mark.parametrize(("name", "value", "expected"), [(SCALE, "huge", "full, laptop"), (GPUS, "one", "0.25")])
def test_an_environment_that_cannot_be_used_is_one_message(
    name: str, value: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=expected):
        read_defaults(Round1)
    assert main(["1a"]) == 2
    assert name in capsys.readouterr().err


def test_options_given_twice_count_together() -> None:
    asked = ask("--set", "training.lr=1", "training.clip=2", "--seeds", "2", "--set", "model.d_model=64")
    assert plan_grid(asked, "/blocks", {}).settings == {"training.lr": 1, "training.clip": 2, "model.d_model": 64}
    asked = ask("--experiments", "baseline", "--experiments", "1a")
    assert plan_grid(asked, "/blocks", {}).experiments == ("baseline", "1a")
    asked = ask("--vary", "training.lr=1,2", "--vary", "model.d_model=64,128")
    assert plan_grid(asked, "/blocks", {}).axes == {"training.lr": (1, 2), "model.d_model": (64, 128)}


def test_former_options_of_the_command_still_work() -> None:
    asked = ask("--preset", "round1", "--arch", "mlp", "--targets", "published", "--experiments", "1a", "2a")
    plan = plan_grid(asked, "/blocks", {})
    assert (plan.scale, plan.experiments) == ("published", ("1a", "2a"))
    assert plan.options == {"model.arch": "mlp", "encoding.targets": "published"}
    [note] = asked.notes
    assert "--scale published" in note


def test_toy_settings_stand_below_the_file() -> None:
    plan = plan_grid(ask(), "/toys", {"training.batch_size": 8})
    assert plan.below == {"training.threads": 1, "training.batch_size": 8}
    assert plan_grid(ask("--data", "mine"), "/blocks", {"training.batch_size": 8}).below == {"training.threads": 1}
    assert plan_grid(ask("--scale", "a100"), "/blocks", {"training.batch_size": 8}).below == {}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--set training.lr=1 --set training.lr=2", "found twice"),
        ("--set training.num_epochs=2 --epochs 3", "expected one of them"),
        ("--vary training.num_epochs=1,2 --epochs 3", "expected one of them"),
        ("--sample model.arch=choice(mlp,mamba2) --arch mlp", "expected one of them"),
        ("--set training.seed=1", "use --seeds"),
        ("--set training.lr", "there is no '='"),
        ("--scale laptop --preset a100", "expected one of them"),
        ("--vary training.lern_rate=1,2", "unknown key"),
    ],
)
def test_contradicting_options_are_one_message(line: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan_grid(ask(*line.split()), "/blocks", {})


def test_large_grids_need_a_yes() -> None:
    with pytest.raises(UserError, match="201 trials are more than 200"):
        check_size(ask(), 201)
    check_size(ask("--yes"), 201)
    check_size(ask(), 200)


@pytest.mark.parametrize("more", ["--seeds 2", "--vary training.clip=1,2", "--experiments 1a 2a"])
def test_a_search_by_results_takes_one_experiment(more: str) -> None:
    line = f"--experiments 1a --sample training.lr=uniform(1,2) --trials 3 --search optuna {more}"
    asked = ask(*line.split())
    with pytest.raises(UserError, match="expected one experiment, one seed and no --vary"):
        check_search(asked, plan_grid(asked, "/blocks", {}))


@pytest.mark.parametrize("value", ["[1", "2026-02-30", "&a [*a]"])
def test_a_setting_that_is_none_is_one_message(value: str) -> None:
    with pytest.raises(UserError, match=r"--set training\.lr=.*: the value is no YAML"):
        read_settings([f"training.lr={value}"])
