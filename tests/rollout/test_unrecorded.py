"""What games do not record stays as the model has seen it in its own frames, whatever an untrained head says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.games_on_disk import as_file, encode_here, name_of, read_columns, write_folder
from tests.rollout.untrained_runs import CHECKPOINT, make_run
from worldmodel.games.toy import write_toy_games
from worldmodel.rollout.loading import load_model, open_games
from worldmodel.rollout.roller import Roller, Start
from worldmodel.rollout.suite import RolloutRequest, evaluate_rollouts
from worldmodel.schema import PLAYERS
from worldmodel.storage import Location
from worldmodel.training.data import find_unrecorded

LACKING = (
    "speed_air_x",
    "speed_y",
    "speed_ground_x",
    "speed_attack_x",
    "speed_attack_y",
    "hitlag",
    "stocks",
    "l_cancel",
)


def strip(folder: Path, out: Path, every: int = 1) -> Path:
    """Games without what slippi-ai's layout does not have; every second one with `every` 2."""
    files = {}
    for number, path in enumerate(sorted((folder / "games").iterdir())):
        columns = read_columns(path.read_bytes())
        if number % every == 0:
            columns = {key: values for key, values in columns.items() if key[-1] not in LACKING or "nana" in key}
        content = as_file(columns)
        files[name_of(content)] = content
    write_folder(out / "toy", files)
    encode_here(out / "toy", out / "blocks")
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    write_toy_games(folder / "toy", 4, seed=3)
    encode_here(folder / "toy", folder / "blocks")
    return folder


@pytest.fixture(scope="module")
def stripped(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return strip(whole / "toy", tmp_path_factory.mktemp("stripped"))


def roll(run: Location, mode: str, data: str = "", **loaded: Any) -> Any:
    made = replace(load_model(run, run / CHECKPOINT), **loaded)
    roller = Roller(made, open_games(run, made.config, data)[0])
    return roller.roll([Start(0, 100), Start(len(roller.games) - 1, 130)], 30)


@pytest.mark.parametrize("mode", ["sequence", "window"])
def test_own_frames_hold_nothing_that_no_game_records(stripped: Path, tmp_path: Path, mode: str) -> None:
    run, _ = make_run(stripped, tmp_path, {"training.mode": mode, "model.output_scale": 1.0})
    rollout = roll(run, mode)
    for name in LACKING:
        assert not rollout.predicted[name].any() and not rollout.true[name].any(), name
    assert rollout.predicted["x"].std() > 0


def test_games_that_record_less_are_held_apart_from_the_others(whole: Path, tmp_path: Path) -> None:
    mixed = strip(whole / "toy", tmp_path / "mixed", every=2)
    run, config = make_run(mixed, tmp_path, {"model.output_scale": 1.0, "training.train_split": 0.3})
    loaded = load_model(run, run / CHECKPOINT)
    roller = Roller(loaded, open_games(run, config)[0])
    lacking = [bool(game.missing) for game in roller.games]
    assert len(set(lacking)) == 2
    rollout = roller.roll([Start(game, 100) for game in range(len(lacking))], 20)
    for game, lacks in enumerate(lacking):
        assert rollout.predicted["speed_y"][game].any() != lacks


def test_a_head_that_was_never_trained_is_not_fed_back_on_other_games(
    whole: Path, stripped: Path, tmp_path: Path
) -> None:
    run, _ = make_run(stripped, tmp_path, {"model.output_scale": 1.0})
    rollout = roll(run, "sequence", str(whole / "blocks"), untrained=("speed_y", "stocks"))
    assert not rollout.predicted["speed_y"].any() and not rollout.predicted["stocks"].any()
    assert rollout.predicted["speed_air_x"].any() and rollout.true["stocks"].any()


def test_a_training_set_s_lacks_are_those_of_all_its_games(whole: Path, stripped: Path, tmp_path: Path) -> None:
    mixed = strip(whole / "toy", tmp_path / "mixed", every=2)
    found = [
        find_unrecorded(open_games(run, config)[0].index.games)
        for run, config in (make_run(games, tmp_path / str(n), {}) for n, games in enumerate((stripped, mixed, whole)))
    ]
    assert set(LACKING) <= set(found[0]) and found[1:] == [[], []]


def test_a_suite_says_what_cannot_be_believed(stripped: Path, tmp_path: Path) -> None:
    run, _ = make_run(stripped, tmp_path, {})
    found = evaluate_rollouts(run, run / CHECKPOINT, RolloutRequest(starts=4, frames=20))
    assert any("not recorded in all games: " in note and "stocks" in note for note in found.notes)
    assert not any(name.startswith("eval/summary_vel_mae") for name in found.rows["model"])
    assert np.isfinite(found.rows["model"]["eval/summary_pos_mae_k20_n4"])


def test_swapped_players_take_their_lacks_along() -> None:
    from worldmodel.features.facts import CATEGORIES, CONTROL_PLACES, Facts

    width = CONTROL_PLACES.stop + len(CATEGORIES)
    lacks = torch.zeros(2, PLAYERS, width, dtype=torch.bool)
    lacks[0, 1, 3] = True
    ones = torch.ones(2, 1, PLAYERS, CONTROL_PLACES.stop)
    facts = Facts(
        ones, torch.ones(2, 1, PLAYERS, len(CATEGORIES), dtype=torch.int64), torch.tensor([2, 2]), None, lacks
    )
    swapped = facts.swap_players(torch.tensor([1, 0])).clear_lacks().numbers
    assert (swapped == 0).nonzero().tolist() == [[0, 0, 0, 3]]
