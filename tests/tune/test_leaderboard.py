"""The leaderboard: every grid and run has its place, only what compares shares a table, and nothing hides."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from tests.tune.results_at_hand import make_early, make_failure, make_result, write_grid_of
from tune.leaderboard import Entry, Leaderboard, collect, render_leaderboard
from tune.record import GRID
from tune.results import METRICS, Statistic
from worldmodel.errors import UserError
from worldmodel.run.run import EVALUATION, RECORD
from worldmodel.run.run_folder import find_runs
from worldmodel.storage import Location

MAE = "metric/position_mae"


def write_run(folder: Path, value: float, **changes: Any) -> None:
    """A run that stands alone."""
    result = make_result("1a", 0, value, **changes)
    assert result.record is not None
    folder.mkdir(parents=True)
    (folder / RECORD).write_text(result.record.model_dump_json())
    (folder / EVALUATION).write_text(json.dumps(result.evaluation))


def name_entries(found: Leaderboard) -> list[list[tuple[str, str]]]:
    return [[(entry.place, entry.experiment) for entry in board.entries] for board in found.boards]


def test_grids_and_runs_share_a_board_best_first(tmp_path: Path) -> None:
    storage = Location.of(tmp_path)
    write_grid_of(storage / "one", [make_result("baseline", seed, (0.4, 0.5, 0.6)[seed]) for seed in range(3)])
    write_grid_of(storage / "two", [make_result("baseline", 0, 0.2), make_result("1a", 0, 0.6)])
    write_run(tmp_path / "alone", 0.3)
    write_run(tmp_path / "folder" / "inside", 0.1, step=4)  # its best checkpoint, not its last
    [board] = collect(storage).boards
    assert [e.checkpoint for e in board.entries] == ["step 4", *["last"] * 4]
    assert {e.rank for e in board.entries} == {1}  # all but one have one seed
    assert [(e.place, e.experiment, e.n, e.steps) for e in board.entries] == [
        ("folder/inside", "inside", 1, 4), ("two", "baseline", 1, 10), ("alone", "alone", 1, 10),
        ("one", "baseline", 3, 10), ("two", "1a", 1, 10),
    ]  # fmt: skip
    assert board.entries[3].metrics[MAE] == Statistic.of([0.4, 0.5, 0.6])
    assert all((entry.seconds, entry.cost_usd) == (60.0, pytest.approx(0.1)) for entry in board.entries)
    assert board.references["kinematic"][MAE] == 0.5
    assert [Location(entry.location) for entry in board.entries[:2]] == [storage / "folder/inside", storage / "two"]


def test_places_differ_only_where_intervals_do(tmp_path: Path) -> None:
    values = {"baseline": 0.1, "1a": 0.11, "2a": 0.5}
    trials = [make_result(name, n, value + 0.01 * n) for name, value in values.items() for n in range(3)]
    write_grid_of(Location.of(tmp_path / "grid"), trials)
    [board] = collect(Location.of(tmp_path)).boards
    assert [(entry.experiment, entry.rank) for entry in board.entries] == [("baseline", 1), ("1a", 1), ("2a", 3)]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(0, 1) | st.just(math.nan), min_size=1, max_size=6))
def test_a_board_is_sorted_and_what_diverged_comes_last(
    tmp_path_factory: pytest.TempPathFactory, values: list[float]
) -> None:
    storage = tmp_path_factory.mktemp("runs")
    for number, value in enumerate(values):
        write_run(storage / f"run{number}", value)
    [board] = collect(Location.of(storage)).boards
    shown = [entry.metrics[MAE].mean for entry in board.entries]
    finite = [value for value in shown if not math.isnan(value)]
    assert finite == sorted(finite)
    assert all(map(math.isnan, shown[len(finite) :]))
    assert len(shown) == len(values)


@pytest.mark.parametrize(
    "changes",
    [{"horizon": 2}, {"data_fingerprint": "other"}, {"metric_version": 2}, {"encoding_targets": "published"},
     {"targets": 7}],
)  # fmt: skip
def test_what_was_measured_otherwise_has_a_board_of_its_own(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_grid_of(Location.of(tmp_path / "grid"), [make_result("baseline", 0)])
    write_run(tmp_path / "other", 0.1, **changes)
    found = collect(Location.of(tmp_path))
    assert sorted(name_entries(found)) == [[("grid", "baseline")], [("other", "other")]]
    assert len({board.title for board in found.boards}) == 2


def test_what_has_no_place_is_named_with_its_reason(tmp_path: Path) -> None:
    storage = Location.of(tmp_path)
    trials = [make_result("baseline", 0), make_early("1a", 0), make_failure("2a", 0, "no room")]
    write_grid_of(storage / "grid", trials)
    write_run(tmp_path / "bare", 0.1)
    (tmp_path / "bare" / EVALUATION).unlink()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / GRID).write_text("{")
    write_run(tmp_path / "half", 0.1)
    (tmp_path / "half" / RECORD).write_text('{"name": ')
    found = collect(storage)
    assert name_entries(found) == [[("grid", "baseline")]]
    assert found.left_out == [
        "bare: was not evaluated", "grid: 1 of 3 trials were stopped early by the scheduler",
        "grid: 1 of 3 trials did not finish",
    ]  # fmt: skip
    assert [text.split(":")[0] for text in found.unreadable] == ["half", "torn"]
    assert all("cannot be understood" in text for text in found.unreadable)
    shown = io.StringIO()
    Console(file=shown, width=120).print(render_leaderboard(found.to_json()))
    assert all(text.split(":")[0] in shown.getvalue() for text in (*found.left_out, *found.unreadable))


@pytest.mark.parametrize("name", [".hidden", "group/.hidden", "back\\slash", "group/back\\slash"])
def test_a_folder_without_a_plain_name_is_passed_over(tmp_path: Path, name: str) -> None:
    write_run(tmp_path / "alone", 0.3)
    write_run(tmp_path / name, 0.1)
    assert name_entries(collect(Location.of(tmp_path))) == [[("alone", "alone")]]
    assert [run.location.name for run in find_runs(Location.of(tmp_path))] == ["alone"]


def test_a_grids_own_folder_is_a_storage_too(tmp_path: Path) -> None:
    write_grid_of(Location.of(tmp_path / "grid"), [make_result("baseline", 0)])
    assert name_entries(collect(Location.of(tmp_path / "grid"))) == [[("grid", "baseline")]]


def test_an_empty_storage_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    write_grid_of(Location.of(tmp_path / "grid"), [make_failure("1a", 0, "no room")])
    with pytest.raises(UserError, match=r"(?s)looked for grids.*grid\.json.*evaluation\.json.*1 of 1 trials did not"):
        collect(Location.of(tmp_path))
    with pytest.raises(UserError, match="nothing to compare"):
        collect(Location.of(tmp_path / "absent"))


def test_json_is_valid_and_complete_also_with_a_diverged_run(tmp_path: Path) -> None:
    write_run(tmp_path / "nan", math.nan)
    told = json.loads(json.dumps(collect(Location.of(tmp_path)).to_json(), allow_nan=False))
    [entry] = told["boards"][0]["entries"]
    assert entry.keys() == set(Entry.__dataclass_fields__)
    assert entry["metrics"].keys() == set(METRICS)
    assert entry["metrics"][MAE]["mean"] is None
    shown = io.StringIO()
    Console(file=shown, width=120).print(render_leaderboard(told))
    assert "nan" in shown.getvalue()  # its name
