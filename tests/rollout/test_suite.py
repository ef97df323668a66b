"""Rollouts of a run: on the screen, in files that every reader accepts, and measured beside the baselines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.games_on_disk import read_columns
from tests.rollout.untrained_runs import CHECKPOINT, make_run, write_games
from worldmodel.cli.main import main
from worldmodel.errors import UserError
from worldmodel.features.feedback import Choice
from worldmodel.games.source import list_source, read_games
from worldmodel.rollout.loading import load_model, open_games
from worldmodel.rollout.roller import Roller, Start
from worldmodel.rollout.suite import RolloutRequest, evaluate_rollouts
from worldmodel.schema import PLAYER_FIELDS, PLAYERS
from worldmodel.storage import Location


@pytest.fixture(scope="module")
def games(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_games(tmp_path_factory.mktemp("games"))


@pytest.fixture(scope="module")
def run(games: Path, tmp_path_factory: pytest.TempPathFactory) -> Location:
    changes = {"model.kinematic_head": True, "model.copy_prior": 6.0, "model.output_scale": 0.05}
    return make_run(games, tmp_path_factory.mktemp("runs"), changes)[0]


def open_roller(run: Location, **options: Any) -> Roller:
    loaded = load_model(run, run / CHECKPOINT)
    return Roller(loaded, open_games(run, loaded.config)[0], **options)


def test_a_rollout_has_every_field_in_the_games_types_beside_what_was_played(games: Path, run: Location) -> None:
    roller = open_roller(run)
    starts = [Start(0, 100), Start(0, roller.games[0].frames - 7)]
    rollout = roller.roll(starts, 20)
    assert rollout.lengths.tolist() == [20, 7]
    columns = read_columns((games / "toy/games" / rollout.md5[0]).read_bytes())
    for field in PLAYER_FIELDS:
        own, true = rollout.predicted[field.name], rollout.true[field.name]
        assert own.shape == true.shape == (2, 20, PLAYERS)
        assert own.dtype == true.dtype
        for player in range(PLAYERS):
            played = columns[f"p{player}", *field.column]
            np.testing.assert_array_equal(true[0, :, player], played[100:120], err_msg=field.name)
            np.testing.assert_array_equal(true[1, :, player], [*played[-7:], *[played[-1]] * 13], err_msg=field.name)
        if field.name in roller.controls:
            np.testing.assert_array_equal(own, true)
    assert not np.array_equal(rollout.predicted["x"], rollout.true["x"])


def test_a_start_rolls_the_same_alone_and_beside_others_and_every_time(run: Location) -> None:
    roller = open_roller(run)
    starts = [Start(0, frame) for frame in (100, 250, 400)]
    together, again, alone = roller.roll(starts, 15), roller.roll(starts, 15), roller.roll(starts[1:2], 15)
    for name, values in together.predicted.items():
        assert np.array_equal(values, again.predicted[name], equal_nan=True)
        np.testing.assert_allclose(values[1].astype(float), alone.predicted[name][0].astype(float), atol=1e-3)


def test_drawn_rollouts_follow_the_seed(run: Location) -> None:
    def draw(seed: int) -> np.ndarray:
        roller = open_roller(run, choice=Choice(temperature=2.0, seed=seed))
        return roller.roll([Start(0, 100)], 15).predicted["action"]

    assert np.array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))


def test_a_step_takes_any_controls(run: Location) -> None:
    roller = open_roller(run)
    frame = roller.begin([Start(0, 100)])
    assert frame.frames == 1
    true = roller.true_controls(0)
    pressed = torch.where(true > 0.5, 0.0, 1.0)
    made = roller.step(pressed)
    assert torch.equal(made.controls[:, 0], pressed)
    roller.begin([Start(0, 100)])
    assert not torch.equal(roller.step(true).numbers, made.numbers)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (Start(0, 10**6), "cannot start at frame 1000000"),
        (Start(0, 1), "needs 4 frames before"),
        (Start(7, 100), "no validation game 7"),
    ],
)
def test_a_start_where_none_can_be_is_refused(run: Location, start: Start, message: str) -> None:
    changed = open_roller(run)
    changed.unroller.memory.context = 4
    with pytest.raises(UserError, match=message):
        changed.roll([start], 5)


def test_the_suite_measures_model_and_baselines_twice_the_same(run: Location) -> None:
    request = RolloutRequest(starts=30, frames=60)
    found, again = (evaluate_rollouts(run, run / CHECKPOINT, request) for _ in range(2))
    assert found == again
    assert found.rows.keys() == {"model", "persistence", "kinematic", "real"}
    names = {f"eval/summary_pos_mae_k{k}_n30" for k in (5, 10, 20, 60)}
    for row in ("model", "persistence", "kinematic"):
        assert names <= found.rows[row].keys()
        assert len(found.curves[row]["pos_mae"]) == 60
    held, moved = (found.rows[row]["eval/summary_pos_mae_k5_n30"] for row in ("persistence", "kinematic"))
    assert moved < held
    assert found.rows["persistence"]["eval/actions_per_minute"] == 0 < found.rows["real"]["eval/actions_per_minute"]
    assert json.loads((run / "rollouts.json").read_text())["rows"]["model"] == found.rows["model"]


def test_all_experiments_have_the_same_baselines(games: Path, tmp_path: Path, run: Location) -> None:
    changes = {
        "training.mode": "window", "encoding.lookahead": 1, "encoding.targets": "published", "model.context_len": 9,
    }  # fmt: skip
    other = make_run(games, tmp_path, changes)[0]
    request = RolloutRequest(starts=10, frames=20)
    first, second = (evaluate_rollouts(r, r / CHECKPOINT, request) for r in (run, other))
    for row in ("persistence", "kinematic", "real"):
        assert first.rows[row] == second.rows[row]
    assert first.rows["model"] != second.rows["model"]


def test_a_horizon_beyond_every_game_is_refused(run: Location) -> None:
    with pytest.raises(UserError, match="use longer games, or shorter rollouts"):
        evaluate_rollouts(run, run / CHECKPOINT, RolloutRequest(frames=10**6))


@pytest.mark.parametrize("options", [{"frames": 0}, {"starts": 0}, {"starts": 10**12}, {"temperature": -1.0}], ids=str)
def test_a_request_that_means_nothing_is_refused_before_anything_is_read(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"found .*expected"):
        RolloutRequest(**options)


def test_the_command_prints_and_saves_a_rollout(
    run: Location, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["rollout", str(run), "--frame", "100", "--frames", "30"]
    assert main([*asked, "--out", str(tmp_path / "one.npz")]) == 0
    assert "own value (true value" in capsys.readouterr().out
    assert main([*asked, "--out", str(tmp_path / "games"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    with np.load(tmp_path / "one.npz") as kept:
        assert kept["predicted/x"].tolist() == result["predicted"]["x"]
        assert kept["true/action"].tolist() == result["true"]["action"]
    (reading,) = read_games(list_source(str(tmp_path / "games"), training_only=False).units)
    game = reading.game
    assert game is not None and game.frames == 30
    np.testing.assert_array_equal(game.columns[0, "x"], np.array(result["predicted"]["x"], dtype=np.float32)[:, 0])


def test_the_command_measures_rollouts(run: Location, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--rollout", "--frames", "20", "--starts", "5"]) == 0
    shown = capsys.readouterr().out
    assert "summary_pos_mae_k20_n5" in shown
    assert "damage_per_minute" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--frame", "999999"], "cannot start at frame 999999"),
        (["--frames", "0"], "expected at least 1"),
        (["--frames", "9999999999"], "expected at least 1 and at most 648000"),
        (["--out", "s3://bucket/games"], "s3://bucket/games is not on a disk of this machine"),
        (["--game", "zz"], "0 validation games begin with 'zz'"),
        (["--out", "/nowhere/x.npz"], "cannot write"),
        (["--checkpoint", "7"], "no checkpoint '7'"),
        (["--temperature", "nan"], "found temperature nan, expected 0"),
        (["--seed", str(1 << 64)], "expected a whole number of 64 bits"),
    ],
)
def test_what_cannot_be_rolled_out_is_said_in_a_sentence(
    run: Location, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rollout", str(run), *options]) == 2
    assert message in capsys.readouterr().err


def test_a_run_without_a_checkpoint_is_refused(games: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, _ = make_run(games, tmp_path, {})
    (run / CHECKPOINT / "manifest.json").delete()
    for asked in (["rollout", str(run)], ["evaluate", str(run), "--rollout"]):
        assert main(asked) == 2
        assert "no checkpoint" in capsys.readouterr().err
