"""Two runs side by side: every difference once, and a warning wherever their results do not compare."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.training.tiny_runs import configure
from worldmodel.errors import UserError
from worldmodel.experiment.config_file import to_yaml
from worldmodel.run.comparison import MUST_AGREE, compare_runs
from worldmodel.run.record import RunRecord, Seconds, State
from worldmodel.run.run import CONFIG, EVALUATION, RECORD
from worldmodel.storage import Location

MAE = "metric/position_mae"
MEASURED: dict[str, Any] = {
    "step": 8, "horizon": 1, "data_fingerprint": "a" * 16, "metric_version": 1, "encoding_targets": "all",
    "games": 4, "targets": 100, "rows": {"model": {MAE: 0.25}, "persistence": {MAE: 0.75}},
}  # fmt: skip


def write_run(
    folder: Path, settings: dict[str, Any] | None = None, evaluation: dict[str, Any] | None = MEASURED, **facts: Any
) -> Location:
    """A run folder that finished after eight steps."""
    given = {
        "state": State.FINISHED, "step": 8, "commit": "c0ffee", "data_fingerprint": "a" * 16,
        "seconds": Seconds(total=60.0), "price_per_hour_usd": 6.0, **facts,
    }  # fmt: skip
    folder.mkdir()
    (folder / RECORD).write_text(RunRecord(name=folder.name, command="", **given).model_dump_json())
    (folder / CONFIG).write_text(to_yaml(configure(settings)))
    if evaluation is not None:
        (folder / EVALUATION).write_text(json.dumps(evaluation))
    return Location.of(folder)


def test_a_run_does_not_differ_from_its_copy(tmp_path: Path) -> None:
    found = compare_runs(write_run(tmp_path / "one"), write_run(tmp_path / "two"))
    assert (found.settings, found.facts, found.warnings) == ({}, {}, [])
    assert found.results == {MAE: (0.25, 0.25)}
    assert found.baselines == {"persistence": {MAE: (0.75, 0.75)}}
    assert found.effort["total"] == (60.0, 60.0)
    assert found.effort["cost_usd"] == (pytest.approx(0.1), pytest.approx(0.1))


def test_differences_have_an_interval_over_the_same_games(tmp_path: Path) -> None:
    sums = [[3.0, 8.0, 1.0, 6.0], [10.0, 20.0, 10.0, 20.0]]
    more = [[value + 0.1 * count for value, count in zip(*sums, strict=True)], sums[1]]
    one, two, other = (
        {**MEASURED, "game_names": names, "by_game": {"model": {MAE: pairs}}}
        for names, pairs in ((["a", "b", "c", "d"], sums), (["a", "b", "c", "d"], more), (["a", "b", "c", "e"], more))
    )
    first = write_run(tmp_path / "one", evaluation=one)
    found = compare_runs(first, write_run(tmp_path / "two", evaluation=two))
    assert found.intervals == {MAE: (pytest.approx(0.1), pytest.approx(0.1))}
    assert compare_runs(first, write_run(tmp_path / "other", evaluation=other)).intervals == {}


def test_exactly_the_settings_that_differ_are_told_with_both_values(tmp_path: Path) -> None:
    one = {"training.lr": 1e-3, "encoding.press_events": True, "training.seed": 5}
    other = {"training.lr": 5e-4, "training.seed": 5, "model.n_layers": 3}
    found = compare_runs(write_run(tmp_path / "one", one), write_run(tmp_path / "two", other))
    assert found.settings == {
        "training.lr": (1e-3, 5e-4), "encoding.press_events": (True, False), "model.n_layers": (1, 3),
    }  # fmt: skip


def test_code_and_data_that_differ_are_told(tmp_path: Path) -> None:
    found = compare_runs(
        write_run(tmp_path / "one"), write_run(tmp_path / "two", commit="facade", data_fingerprint="b" * 16, step=9)
    )
    assert found.facts == {
        "commit": ("c0ffee", "facade"), "data_fingerprint": ("a" * 16, "b" * 16), "step": (8, 9),
    }  # fmt: skip


@pytest.mark.parametrize("name", MUST_AGREE)
def test_results_that_do_not_compare_have_a_warning(tmp_path: Path, name: str) -> None:
    other = {**MEASURED, name: 2 if isinstance(MEASURED[name], int) else "other"}
    found = compare_runs(write_run(tmp_path / "one"), write_run(tmp_path / "two", evaluation=other))
    [warning] = found.warnings
    assert "do not compare" in warning
    assert f"{name}: {MEASURED[name]} and {other[name]}" in warning


def test_runs_that_were_not_evaluated_show_their_last_validation(tmp_path: Path) -> None:
    values = {"val_metric/position_mae": 0.5, "batch/loss": 1.0}
    one = write_run(tmp_path / "one", evaluation=None, metrics=values)
    two = write_run(tmp_path / "two", {"encoding.lookahead": 1}, evaluation=None, metrics=values)
    found = compare_runs(one, two)
    assert found.results == {MAE: (0.5, 0.5)}
    assert found.sources == ("last validation, metric version 1", "last validation, metric version 1")
    assert any("horizon: 1 and 2" in text for text in found.warnings)
    mixed = compare_runs(one, write_run(tmp_path / "three"))
    assert any("two kinds" in text for text in mixed.warnings)


def test_a_validation_of_some_games_is_said_to_be_one(tmp_path: Path) -> None:
    values = {"val_metric/position_mae": 0.5}
    one, two = (
        write_run(tmp_path / f"of {some}", evaluation=None, metrics=values, validated_games=(some, 2152))
        for some in (64, 2152)
    )
    found = compare_runs(one, two)
    assert found.sources[0] == "last validation on 64 of 2,152 games, metric version 1"
    assert found.sources[1] == "last validation, metric version 1"
    assert any("games: 64 and 2152" in text for text in found.warnings)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"early_stopped": True, "state": State.STOPPED}, "two was stopped early by a scheduler"),
        ({"state": State.FAILED, "reason": "no room"}, "two is failed at step 8"),
        ({"step": 9}, "two was evaluated at step 8, it has 9"),
    ],
)
def test_a_run_that_did_not_come_to_its_end_is_named(tmp_path: Path, facts: dict[str, Any], said: str) -> None:
    found = compare_runs(write_run(tmp_path / "one"), write_run(tmp_path / "two", **facts))
    assert [text for text in found.warnings if text.startswith(said)]
    assert not any(text.startswith("one ") for text in found.warnings)


def test_a_number_that_is_none_is_absent(tmp_path: Path) -> None:
    diverged = {**MEASURED, "rows": {"model": {MAE: math.nan}}}
    found = compare_runs(write_run(tmp_path / "one"), write_run(tmp_path / "two", evaluation=diverged))
    assert found.results == {MAE: (0.25, None)}


def test_a_torn_evaluation_is_refused_with_its_file(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two")
    (two / EVALUATION).write_text("{")
    with pytest.raises(UserError, match=r"two/evaluation\.json cannot be understood"):
        compare_runs(one, two)
