"""The trials of a grid: which there are, what each is, and which grids are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tune.axes import read_spaces
from tune.variants import (
    FOLDER,
    ROUND1,
    GridPlan,
    count_trials,
    describe_published,
    identify,
    list_differences,
    make_trials,
    place_trial,
)
from worldmodel.errors import UserError
from worldmodel.experiment.config_file import override
from worldmodel.experiment.layers import load_experiment
from worldmodel.experiment.scales import SCALES

PLACE = {"data.dataset_dir": "/blocks", "save_dir": "/runs/grid", "tracking.group": "grid"}
SIZES = ((128, 1e-3), (192, 2e-3), (256, 4e-3))


def plan(**options: Any) -> GridPlan:
    return GridPlan(place=PLACE, **options)


def write(folder: Path, name: str, **values: Any) -> str:
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({"goal": "a test", **values}))
    return str(folder / f"{name}.yaml")


@pytest.mark.parametrize("scale", SCALES)
def test_three_files_give_three_trials_with_their_own_values(tmp_path: Path, scale: str) -> None:
    for d_model, lr in SIZES:
        write(tmp_path, f"m{d_model}", model={"d_model": d_model}, training={"lr": lr})
    trials = make_trials(plan(experiments=[f"{tmp_path}/m*.yaml"], scale=scale))
    found = {(trial.config.model.d_model, trial.config.training.lr) for trial in trials}
    assert found == set(SIZES)
    assert list_differences(trials) == [{"model.d_model": d_model, "training.lr": lr} for d_model, lr in SIZES]


@settings(deadline=None, max_examples=15)
@given(st.lists(st.sampled_from(ROUND1), min_size=1, max_size=9), st.integers(1, 4))
def test_a_grid_is_all_experiments_with_all_seeds_each_once(names: list[str], seeds: int) -> None:
    trials = make_trials(plan(experiments=names, seeds=seeds))
    pairs = [(trial.experiment, trial.config.training.seed) for trial in trials]
    assert len(pairs) == len(set(pairs)) == len({trial.name for trial in trials})
    assert set(pairs) == {(name, seed) for name in names for seed in range(seeds)}
    assert all(trial.seed == trial.config.training.seed for trial in trials)


def test_a_grid_cut_short_has_whole_rounds() -> None:
    trials = make_trials(plan(seeds=2))
    assert [trial.seed for trial in trials] == [0] * len(ROUND1) + [1] * len(ROUND1)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ROUND1)
def test_a_trial_is_its_experiment_on_the_scale_and_in_its_place(name: str, scale: str) -> None:
    [trial] = make_trials(plan(experiments=[name], scale=scale))
    expected = load_experiment(FOLDER / f"{name}.yaml", scale)
    assert trial.config == override(expected, {**PLACE, "name": f"{name}-seed0", "training.seed": 0})


@pytest.mark.parametrize("scale", SCALES)
def test_the_mlp_stays_an_mlp_and_gets_windows_on_every_scale(scale: str) -> None:
    for trial in make_trials(plan(options={"model.arch": "mlp"}, scale=scale)):
        assert (trial.config.model.arch, trial.config.training.mode) == ("mlp", "window")


def test_axes_win_over_settings_and_settings_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "a", training={"lr": 0.1, "clip": 0.1, "weight_decay": 0.1})
    options = {"settings": {"training.lr": 0.2, "training.clip": 0.2}, "axes": {"training.lr": (0.3, 0.4)}}
    trials = make_trials(plan(experiments=[path], seeds=2, **options))
    assert [trial.name for trial in trials] == [f"a-lr_{lr}-seed{seed}" for seed in (0, 1) for lr in (0.3, 0.4)]
    for trial in trials:
        training = trial.config.training
        assert (training.lr, training.clip, training.weight_decay) == (trial.axes["training.lr"], 0.2, 0.1)
        keys = ("training.lr", "training.clip", "training.weight_decay", "model.d_model")
        assert [trial.origins[key] for key in keys] == ["--vary", "--set", "a.yaml", "scale laptop"]


def test_samples_are_trials_like_others(tmp_path: Path) -> None:
    spaces = read_spaces(["training.lr=loguniform(1e-3,2e-2)"])
    asked = plan(experiments=[write(tmp_path, "a")], spaces=spaces, trials=5, axes={"training.clip": (1, 2)})
    trials = make_trials(asked)
    assert len({trial.name for trial in trials}) == count_trials(asked) == 10
    assert {trial.origins["training.lr"] for trial in trials} == {"--sample"}


def test_a_searched_point_is_a_trial_with_its_name(tmp_path: Path) -> None:
    [base] = make_trials(plan(experiments=[write(tmp_path, "a")]))
    trial = place_trial(base, {"training.lr": 0.25})
    assert (trial.name, trial.experiment, trial.config.training.lr) == ("a-lr_0.25-seed0", "a lr=0.25", 0.25)
    assert trial.origins["training.lr"] == "--sample"


@pytest.mark.parametrize(
    ("settings_", "label"),
    [
        ({}, "1a"),
        ({"training.lr": 0.5}, "1a"),
        ({"encoding.press_events": True}, "1a (press_events=true)"),
        ({"encoding.state_age_as_embed": False, "encoding.lookahead": 1}, "1a (state_age_as_embed=false lookahead=1)"),
    ],
)
def test_a_row_that_is_not_what_its_published_name_says_says_so(settings_: dict[str, Any], label: str) -> None:
    [trial] = make_trials(plan(experiments=["1a"], settings=settings_))
    assert trial.experiment == label


def test_a_file_of_ones_own_cannot_pass_for_a_published_row(tmp_path: Path) -> None:
    [trial] = make_trials(plan(experiments=[write(tmp_path, "2a", encoding={"hitstun": True})]))
    assert trial.experiment == "2a (press_events=false hitstun=true)"
    assert describe_published([trial]) == []


def test_the_published_setting_alone_needs_no_remark() -> None:
    mlp = {"model.arch": "mlp", "encoding.targets": "published"}
    assert describe_published(make_trials(plan(scale="published", options=mlp))) == []
    [said] = describe_published(make_trials(plan(scale="laptop")))
    assert "model.arch mamba2 (published: mlp)" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"experiments": ["baseline", "3a-1b"]}, "unknown experiment '3a-1b' (did you mean '3a-1a'?)"),
        ({"experiments": ["zzz"]}, "there are 1a, 1a-2a, 2a, 3a, 3a-1a, 3a-1a-2a, baseline"),
        ({"experiments": []}, "no experiment is named"),
        ({"experiments": ["absent/x.yaml"]}, "absent/x.yaml: no such experiment file"),
        ({"experiments": ["absent/*.yaml"]}, "no file has such a name"),
        ({"seeds": 0}, "--seeds 0"),
        ({"scale": "laptob"}, "did you mean 'laptop'"),
        ({"settings": {"training.lern_rate": 1}}, "training.lern_rate: unknown key"),
        ({"axes": {"model.headdim": (64, 100)}}, "model.headdim 100 does not divide the inner width 384"),
        ({"axes": {"training.lr": (1e-3, -1)}}, "training.lr: found -1, expected greater than 0 (--vary)"),
        ({"trials": 3}, "--trials 3 and 0 --sample options"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_by_name(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as refused:
        make_trials(plan(**options))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "options",
    [
        {"axes": {"training.lr": (1e-3, 0.001)}},
        {"axes": {"model.hidden_dim": (64, 128)}},
        {"axes": {"self_forcing.ratio": (1, 2)}},
        {"experiments": ["1a", "baseline"], "settings": {"encoding.state_age_as_embed": True}},
    ],
)
def test_trials_that_would_train_the_same_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"(1a|baseline)\S*-seed0 and baseline\S*-seed0 would train the same thing"):
        make_trials(plan(**{"experiments": ["baseline"], **options}))


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    paths = [write(tmp_path, "a"), write(tmp_path / "other", "a", training={"lr": 1})]
    with pytest.raises(UserError, match="both called 'a'"):
        make_trials(plan(experiments=paths))


def test_what_changes_a_training_changes_its_identity() -> None:
    [trial] = make_trials(plan(experiments=["baseline"]))
    changes: list[dict[str, Any]] = [{"training.lr": 1}, {"training.seed": 1}, {"training.warmup_pct": 0.5}]
    for change in changes:
        assert identify(override(trial.config, change)) != identify(trial.config)
    for change in ({"name": "x"}, {"tracking.group": "x"}, {"save_dir": "x"}):
        assert identify(override(trial.config, change)) == identify(trial.config)
