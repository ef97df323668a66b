"""What is told of trials while they run."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from tests.tune.results_at_hand import make_record, make_trial
from tune import live
from tune.live import render, show_live
from worldmodel.run.record import State
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
    with show_live(folder, trials):
        write(folder, "1a", now + timedelta(seconds=5))
    told = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in told] == ["1a-seed0"]


def test_the_table_has_every_trial_also_one_that_waits_or_cannot_be_read(folder: Location) -> None:
    write(folder, "baseline", datetime.now(UTC), State.FAILED)
    (folder / "1a-seed0" / RECORD).write_text('{"name"')
    console = Console(file=io.StringIO(), width=120, color_system=None)
    console.print(render(folder, [make_trial(name) for name in ("baseline", "1a", "2a")]))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    for name, state in (("baseline", "failed"), ("1a", "waiting"), ("2a", "waiting")):
        assert any(f"{name}-seed0" in line and state in line for line in shown.splitlines())
