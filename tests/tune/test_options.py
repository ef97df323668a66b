"""What a grid takes from its environment where the command line says nothing, as it does on a cluster."""

from __future__ import annotations

import re

import pytest
import tyro

from tune.options import DATA, GPUS, PRESET, STORAGE, Round1, read_defaults, read_settings
from tune.round1 import main
from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import override, read_experiment


def ask(*arguments: str) -> Round1:
    """What those arguments ask for, in this environment."""
    return tyro.cli(Round1, args=arguments, default=read_defaults())


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster has said anything."""
    for name in (DATA, GPUS, PRESET, STORAGE):
        monkeypatch.delenv(name, raising=False)


def test_the_same_command_does_on_a_cluster_what_the_cluster_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    at_home = ask()
    assert (at_home.data, at_home.place, at_home.gpus_per_trial, at_home.preset) == ("", "runs", 0.0, "laptop")
    for name, value in ((DATA, "s3://b/games"), (STORAGE, "s3://b/runs"), (GPUS, "0.25"), (PRESET, "round1")):
        monkeypatch.setenv(name, value)
    there = ask()
    assert (there.data, there.place) == ("s3://b/games", "s3://b/runs")
    assert (there.gpus_per_trial, there.preset) == (0.25, "round1")


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ((DATA, "s3://b/games"), (STORAGE, "s3://b/runs"), (GPUS, "1"), (PRESET, "round1")):
        monkeypatch.setenv(name, value)
    said = ask("--data", "here", "--storage", "there", "--gpus-per-trial", "0", "--preset", "laptop")
    assert (said.data, said.place, said.gpus_per_trial, said.preset) == ("here", "there", 0.0, "laptop")


@pytest.mark.parametrize(("name", "value", "expected"), [(PRESET, "huge", "laptop, round1"), (GPUS, "one", "0.25")])
def test_an_environment_that_cannot_be_used_is_one_message(
    name: str, value: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=expected):
        read_defaults()
    assert main([]) == 2
    assert f"{name}={value}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "setting", ["training.lr=1e-3", "training.weight_decay=5E-4", "data.stage_filter=[31, 32]", "training.mode=window"]
)
def test_a_setting_is_read_as_in_an_experiment_file(setting: str) -> None:
    section, key, value = re.split("[.=]", setting, maxsplit=2)
    in_file = read_experiment(f"{section}: {{{key}: {value}}}", source="file", name="grid")
    assert override(ExperimentConfig(name="grid"), read_settings([setting])) == in_file


@pytest.mark.parametrize("value", ["[1", "2026-02-30", "&a [*a]"])
def test_a_setting_that_is_none_is_one_message(value: str) -> None:
    with pytest.raises(UserError, match=r"--set training\.lr=.*: the value is no YAML"):
        read_settings([f"training.lr={value}"])
