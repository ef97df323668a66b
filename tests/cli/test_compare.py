"""`worldmodel compare` and `worldmodel leaderboard`: what they print, and how they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.training.tiny_runs import configure
from tests.tune.results_at_hand import make_result, write_grid_of
from worldmodel.cli.main import main
from worldmodel.experiment.config_file import to_yaml
from worldmodel.run.run import CONFIG
from worldmodel.storage import Location


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A storage with a grid of a one-step and a lookahead trial."""
    trials = [make_result("baseline", 0), make_result("3a", 0, 0.5, horizon=2)]
    write_grid_of(Location.of(tmp_path / "grid"), trials)
    for trial, lookahead in zip(trials, (0, 1), strict=True):
        (tmp_path / "grid" / trial.name / CONFIG).write_text(to_yaml(configure({"encoding.lookahead": lookahead})))
    return tmp_path


def test_compare_takes_names_and_paths_and_says_what_does_not_compare(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = str(storage / "grid/3a-seed0")
    for first, where in (("grid/baseline-seed0", storage), ("baseline-seed0", storage / "grid")):
        given = ["compare", first, second, "--storage", str(where)]
        assert main([*given, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["settings"] == {"encoding.lookahead": [0, 1]}
        assert told["results"]["metric/position_mae"] == [0.25, 0.5]
        assert told["baselines"]["persistence"]["metric/position_mae"] == [0.5, 0.5]
        assert any("horizon: 1 and 2" in text for text in told["warnings"])
        assert main(given) == 0
        shown = capsys.readouterr().out
        for text in (
            "baseline-seed0",
            "3a-seed0",
            "encoding.lookahead",
            "0.2500",
            "0.5000",
            "+0.25",
            "horizon: 1 and 2",
            ", metric version 1 |",
        ):
            assert text in shown


def test_compare_refuses_a_run_that_is_not_there(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "baseline-seed0", "3a-seed1", "--storage", str(storage / "grid")]) == 2
    assert "there is no run '3a-seed1'" in capsys.readouterr().err


def test_leaderboard_prints_every_entry(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leaderboard", str(storage)]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 120
    assert all(text in shown for text in ("one frame ahead", "2 frames ahead", "grid", "baseline", "3a", "kinematic"))
    assert main(["leaderboard", str(storage), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [board["entries"][0]["experiment"] for board in told["boards"]] == ["baseline", "3a"]
    assert main(["leaderboard", str(storage / "nothing")]) == 2
    assert "looked for grids" in capsys.readouterr().err
