"""What is told of trials while they run."""

from __future__ import annotations

import io
import time
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from tests.tune.results_at_hand import make_record, make_trial
from tune import live
from tune.live import Grid, find_left_of_grid, render, show_live
from worldmodel.run.record import Seconds, State
from worldmodel.run.run import RECORD
from worldmodel.storage import Location


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Location:
    """A grid's folder."""
    return Location.of(tmp_path_factory.mktemp("grid"))


def write(folder: Location, experiment: str, ended: datetime, state: State = State.FINISHED) -> None:
    record = make_record(experiment, 0, ended=ended, state=state)
    (folder / record.name / RECORD).write_text(record.model_dump_json())


def test_each_end_is_told_once_and_that_of_an_earlier_grid_never(
    folder: Location, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(live, "REFRESH_SECONDS", 0.01)
    now = datetime.now(UTC)
    write(folder, "baseline", now - timedelta(hours=1), State.FAILED)
    trials = [make_trial(name) for name in ("baseline", "1a", "2a")]
    with show_live(Grid(folder=folder, trials=trials)):
        write(folder, "1a", now + timedelta(seconds=5))
    told = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in told] == ["1a-seed0"]


def write_running(folder: Location, experiment: str) -> None:
    """A trial that is half way through after 50 seconds of training, 10 of validation and 5 others."""
    metrics = {"batch/loss": 0.3125, "speed/targets_per_second": 51_234.0, "val_metric/action_ce": 0.25}
    seconds = Seconds(training=50.0, validation=10.0, total=65.0)
    record = make_record(
        experiment, 0, state=State.RUNNING, step=352, total_steps=704, seconds=seconds, metrics=metrics
    )  # fmt: skip
    (folder / record.name / RECORD).write_text(record.model_dump_json())


def draw(grid: Grid, width: int, height: int) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    console.print(render(grid, console))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_tells_loss_throughput_and_time_left(folder: Location, width: int) -> None:
    write(folder, "baseline", datetime.now(UTC), State.FAILED)
    write_running(folder, "1a")
    (folder / "2a-seed0" / RECORD).write_text('{"name"')
    names = ("baseline", "1a", "2a", "3a")
    shown = draw(Grid(folder=folder, trials=[make_trial(name) for name in names], at_once=2), width, 50)
    for name, state in (("baseline", "failed"), ("1a", "running"), ("2a", "waiting"), ("3a", "waiting")):
        assert any(f"{name}-seed0" in line and state in line for line in shown.splitlines())
    assert shown.partition("1a-seed0")[2].split()[:5] == ["running", "50%", "0.3125", "51.2k", "1m00s"]
    assert ("position" in shown) == (width == 120)
    assert "1 of 4 trials ended, 1 run, about" in shown
    assert max(map(len, shown.splitlines())) <= width


def test_of_more_trials_than_lines_those_that_run_are_shown(folder: Location) -> None:
    names = [f"e{number}" for number in range(30)]
    write_running(folder, names[-1])
    shown = draw(Grid(folder=folder, trials=[make_trial(name) for name in names]), 80, 24)
    assert "e29-seed0" in shown and "more trials" in shown
    assert len(shown.splitlines()) <= 24


def test_the_time_left_counts_trials_that_wait_and_run_side_by_side() -> None:
    done = make_record("baseline", 0, seconds=Seconds(total=100.0))
    half = Seconds(training=50.0, total=50.0)
    running = make_record("1a", 0, state=State.RUNNING, step=5, total_steps=10, seconds=half)
    assert find_left_of_grid([done, running], trials=2, at_once=1) == 50
    assert find_left_of_grid([done, running], trials=4, at_once=1) == 250
    assert find_left_of_grid([done, running], trials=4, at_once=2) == 150
    assert find_left_of_grid([], trials=4, at_once=2) is None


def test_a_log_hears_of_running_trials_once_a_minute(
    folder: Location, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(live, "REFRESH_SECONDS", 0.01)
    monkeypatch.setattr(live, "AGAIN_SECONDS", 0.2)
    write_running(folder, "1a")
    with show_live(Grid(folder=folder, trials=[make_trial("1a")])):
        time.sleep(0.5)
    told = capsys.readouterr().err.splitlines()
    assert 1 <= len(told) <= 3
    assert "0 of 1 trials ended, 1 run, about 1m00s left; 1a-seed0 50% loss 0.3125 51.2k targets/s eta 1m00s" in told
