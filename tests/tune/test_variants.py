"""Which trials a grid has."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worldmodel.experiment.presets import PRESETS

from tune.grid import FOLDER, ROUND1, GridOptions, make_trials
from worldmodel.errors import UserError
from worldmodel.experiment.config_file import override
from worldmodel.experiment.layers import load_experiment

PLACE: dict[str, Any] = {"data": "/blocks", "folder": "/runs/grid", "group": "grid", "changes": {}}


@settings(deadline=None, max_examples=15)
@given(st.lists(st.sampled_from(ROUND1), min_size=1, max_size=9), st.integers(1, 4))
def test_a_grid_is_all_experiments_with_all_seeds_each_once(names: list[str], seeds: int) -> None:
    trials = make_trials(GridOptions(experiments=names, seeds=seeds, **PLACE))
    pairs = [(trial.experiment, trial.config.training.seed) for trial in trials]
    assert len(pairs) == len(set(pairs)) == len({trial.name for trial in trials})
    assert set(pairs) == {(name, seed) for name in names for seed in range(seeds)}
    assert all(trial.seed == trial.config.training.seed for trial in trials)


def test_a_grid_cut_short_has_whole_rounds() -> None:
    trials = make_trials(GridOptions(seeds=2, **PLACE))
    assert [trial.seed for trial in trials] == [0] * len(ROUND1) + [1] * len(ROUND1)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", ROUND1)
def test_a_trial_is_its_experiment_under_the_preset_and_in_its_place(name: str, preset: str) -> None:
    [trial] = make_trials(GridOptions(experiments=[name], preset=preset, **PLACE))
    expected = load_experiment(FOLDER / f"{name}.yaml", preset)
    place = {
        "name": f"{name}-seed0", "training.seed": 0, "data.dataset_dir": "/blocks", "save_dir": "/runs/grid",
        "tracking.group": "grid",
    }  # fmt: skip
    assert trial.config == override(expected, place)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_mlp_stays_an_mlp_and_gets_windows_under_every_preset(preset: str) -> None:
    for trial in make_trials(GridOptions(arch="mlp", preset=preset, **PLACE)):
        assert (trial.config.model.arch, trial.config.training.mode) == ("mlp", "window")


def test_changes_reach_every_trial_and_its_seed_stays() -> None:
    changes = {"training.lr": 0.125, "training.seed": 7}
    trials = make_trials(GridOptions(experiments=["1a", "2a"], seeds=2, **{**PLACE, "changes": changes}))
    assert all(trial.config.training.lr == 0.125 for trial in trials)
    assert [trial.config.training.seed for trial in trials] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"experiments": ["baseline", "3a-1b"]}, "unknown experiment '3a-1b' (did you mean '3a-1a'?)"),
        ({"experiments": ["zzz"]}, "there are 1a, 1a-2a, 2a, 3a, 3a-1a, 3a-1a-2a, baseline"),
        ({"experiments": []}, "--experiments names none"),
        ({"seeds": 0}, "--seeds 0"),
        ({"preset": "laptob"}, "did you mean 'laptop'"),
        ({"changes": {"training.lern_rate": 1}}, "training.lern_rate: unknown key"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_by_name(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as refused:
        make_trials(GridOptions(**{**PLACE, **options}))
    assert said in str(refused.value)
