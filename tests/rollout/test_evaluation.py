"""The table of results: every row on the same targets, the baselines as the game's own numbers give them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.games_on_disk import encode_here, read_columns
from tests.rollout.untrained_runs import make_run, write_games
from tests.training.tiny_runs import configure
from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.games.toy import write_toy_games
from worldmodel.rollout.evaluation import Evaluation, evaluate
from worldmodel.schema import PLAYERS
from worldmodel.training.data import open_dataset


@pytest.fixture(scope="module")
def games(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with toy games (`toy`) and their blocks."""
    return write_games(tmp_path_factory.mktemp("games"))


def measure(games: Path, storage: Path, changes: dict[str, Any] | None = None) -> Evaluation:
    run, _ = make_run(games, storage, changes or {})
    return evaluate(run, run / "checkpoints/step-00000003")


def measure_errors(games: Path, config: ExperimentConfig, *, moves: bool) -> float:
    """Position MAE of a player who stays (or goes on at its speeds), from the files' own columns.

    Speeds and freeze frames as the project's decisions define the kinematic row.
    """
    errors = []
    for game in open_dataset(str(games / "blocks"), config).split.validation:
        columns = read_columns((games / "toy/games" / game.md5).read_bytes())
        ahead = config.encoding.lookahead
        context = np.arange(config.model.context_len - 1, game.frames - 1 - ahead)
        for player in (f"p{number}" for number in range(PLAYERS)):
            own = {path[1]: values for path, values in columns.items() if path[0] == player and len(path) == 2}
            get = {name: values.astype(np.float64) for name, values in own.items()}
            ground, still = get["on_ground"][context] > 0, get["hitlag"][context] > 1
            side = np.where(ground, get["speed_ground_x"][context], get["speed_air_x"][context])
            speeds = {
                "x": side + get["speed_attack_x"][context],
                "y": np.where(ground, 0, get["speed_y"][context]) + get["speed_attack_y"][context],
            }
            for axis, speed in speeds.items():
                true = get[axis][context + 1 + ahead] - get[axis][context + ahead]
                errors.append(np.abs(true - moves * np.where(still, 0, speed)))
    return float(np.concatenate(errors).mean())


@pytest.mark.parametrize("ahead", [0, 1])
def test_the_baselines_are_those_of_the_files_own_numbers(games: Path, tmp_path: Path, ahead: int) -> None:
    changes = {"encoding.lookahead": ahead}
    found = measure(games, tmp_path, changes)
    config = configure(changes)
    for name, moves in (("persistence", False), ("kinematic", True)):
        expected = measure_errors(games, config, moves=moves)
        assert found.rows[name]["metric/position_mae"] == pytest.approx(expected, rel=1e-4)
    assert found.rows["persistence"]["metric/action_change_acc"] == 0
    assert found.horizon == 1 + ahead


def test_windows_and_sequences_have_the_same_targets_and_baselines(games: Path, tmp_path: Path) -> None:
    sequences = measure(games, tmp_path / "a")
    windows = measure(games, tmp_path / "b", {"training.mode": "window"})
    assert sequences.targets == windows.targets
    for name in ("persistence", "kinematic"):
        assert sequences.rows[name] == pytest.approx(windows.rows[name], rel=1e-5)


def test_the_most_frequent_next_action_beats_staying_where_actions_change(games: Path, tmp_path: Path) -> None:
    rows = measure(games, tmp_path).rows
    assert rows["most frequent next action"]["metric/action_change_acc"] > 0.1


def test_a_run_of_a_gpu_can_be_evaluated_without_one(
    games: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    expected = measure(games, tmp_path / "a")
    found = measure(games, tmp_path / "b", {"training.device": "cuda", "model.backend": "kernels"})
    assert found.targets == expected.targets


def test_an_evaluation_takes_all_games(games: Path, tmp_path: Path) -> None:
    split = {"training.train_split": 0.5, "data.split": "first"}
    every = measure(games, tmp_path / "all", split)
    sampled = measure(games, tmp_path / "some", {**split, "training.validation_games": 1})
    assert every.games == 2
    assert (sampled.games, sampled.targets, sampled.by_game) == (every.games, every.targets, every.by_game)


def test_test_games_are_measured_apart(games: Path, tmp_path: Path) -> None:
    split = {"data.split": "md5", "training.train_split": 0.8, "training.test_split": 0.7}
    found = measure(games, tmp_path, split)
    assert found.test is not None
    assert not set(found.test.game_names) & set(found.game_names)
    for part in (found, found.test):
        assert len(part.game_names) == part.games
        assert part.targets == part.rows["model"]["metric/targets"]
        for row, metrics in part.by_game.items():
            for name, (sums, counts) in metrics.items():
                assert sum(sums) / sum(counts) == pytest.approx(part.rows[row][name], rel=1e-5)
    assert found.commit and found.version


def test_no_test_games_are_said(games: Path, tmp_path: Path) -> None:
    found = measure(games, tmp_path, {"training.test_split": 0.0})
    assert found.test is None and "no test games" in found.notes[-1]


def test_other_games_than_the_runs_are_noted(games: Path, tmp_path: Path) -> None:
    run, _ = make_run(games, tmp_path, {})
    write_toy_games(tmp_path / "other", 2, seed=9)
    encode_here(tmp_path / "other", tmp_path / "blocks")
    found = evaluate(run, run / "checkpoints/step-00000003", str(tmp_path / "blocks"))
    assert "other games than the run's" in found.notes[0]
    assert json.loads((run / "evaluation.json").read_text())["notes"] == list(found.notes)
    assert "persistence" not in (run / "card.md").read_text()


def test_games_that_are_gone_are_asked_for(games: Path, tmp_path: Path) -> None:
    run, _ = make_run(games, tmp_path, {})
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "blocks": str(tmp_path / "gone")}))
    with pytest.raises(UserError, match="--data"):
        evaluate(run, run / "checkpoints/step-00000003")
    assert evaluate(run, run / "checkpoints/step-00000003", str(games / "blocks")).targets > 0


def test_a_foreign_run_has_no_say_in_where_games_go(
    games: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLDMODEL_CACHE", str(tmp_path / "mine"))
    run, _ = make_run(games, tmp_path / "runs", {"save_dir": str(tmp_path / "theirs")})
    evaluate(run, run / "checkpoints/step-00000003", str(games / "toy"))
    assert not (tmp_path / "theirs").exists()
    assert list(tmp_path.glob("mine/blocks/*/index.json"))
