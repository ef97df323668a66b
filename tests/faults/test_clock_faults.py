"""A machine's clock that is set while a run trains: nothing that counts goes by the time of day."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from tests.faults.conftest import Tell
from tests.faults.small_runs import LONG, act_before, are_same, ask, train, write_experiment
from worldmodel.cli.main import main
from worldmodel.run import lock, log_file, record, run, run_folder, timeline
from worldmodel.run.certificate import certify
from worldmodel.run.record import State
from worldmodel.run.tracking import read_metrics
from worldmodel.storage import Location

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("disk")]
DAYS = timedelta(days=2)
BUDGET_SECONDS = 6.0


class Clock:
    """The time of day of this process, which a test can set; `time.monotonic` goes on as it does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shift = timedelta()
        clock, now = self, time.time

        class Shifted(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                return datetime.now(tz) + clock.shift

        for module in (lock, log_file, record, run, run_folder, timeline):
            monkeypatch.setattr(module, "datetime", Shifted)
        monkeypatch.setattr(time, "time", lambda: now() + clock.shift.total_seconds())

    def set_by(self, shift: timedelta) -> None:
        """Set it forward, or back."""
        self.shift += shift


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, blocks: Path) -> Location:
    """The same run by a clock that goes right."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert main(ask(write_experiment(folder, "run"), blocks, str(folder / "runs"))) == 0
    return Location.of(folder / "runs" / "run")


@pytest.mark.parametrize("shift", [DAYS, -DAYS], ids=["forward", "back"])
def test_a_clock_that_is_set_changes_nothing_of_a_run_and_ends_none(
    clock: Clock, undisturbed: Location, blocks: Path, tmp_path: Path, tell: Tell, monkeypatch: pytest.MonkeyPatch,
    shift: timedelta,
) -> None:  # fmt: skip
    place = Location.of(tmp_path / "runs/run")
    seen: list[State] = []

    def set_and_look() -> None:
        clock.set_by(shift)
        seen.extend([certify(place).state, run_folder.find_runs(place.parent)[0].record.state])

    act_before(monkeypatch, {12: set_and_look, 30: lambda: clock.set_by(-2 * shift)})
    began = time.monotonic()
    asked = ask(write_experiment(tmp_path, "run"), blocks, str(place.parent))
    found = train([*asked, "--budget-hours", "1"], str(place))
    took = time.monotonic() - began
    assert found.status == 0
    assert set(seen) <= {State.CREATED, State.RUNNING} and seen
    assert are_same(found.run, undisturbed)
    ended = found.record
    seconds = ended.seconds
    assert 0 < seconds.training < seconds.total < took and seconds.validation > 0 and seconds.data >= 0
    assert all(phase.seconds >= 0 for phase in ended.phases)
    assert ended.estimate is None or 0 <= ended.estimate.seconds < 60
    speeds = [value for row in read_metrics(found.run) for name, value in row.items() if name.startswith("speed/")]
    assert speeds and all(math.isfinite(value) and value >= 0 for value in speeds)
    way = "forward by two days, then back by four" if shift > timedelta() else "back by two days, then forward by four"
    tell(f"the clock is set {way}", "survived", None, "nothing", "; ".join(ended.notes))


@pytest.mark.parametrize("shift", [DAYS, -DAYS], ids=["forward", "back"])
def test_a_budget_is_kept_whatever_the_clock_says(
    clock: Clock, blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: timedelta
) -> None:
    act_before(monkeypatch, {12: lambda: clock.set_by(shift)})
    asked = ask(write_experiment(tmp_path, "run", num_epochs=LONG), blocks, str(tmp_path / "runs"))
    found = train([*asked, "--budget-hours", str(BUDGET_SECONDS / 3600)], str(tmp_path / "runs/run"))
    assert found.status == 130
    assert found.record.state is State.STOPPED and "budget" in found.record.reason
    assert BUDGET_SECONDS <= found.record.seconds.total < BUDGET_SECONDS + 5
    assert found.record.heartbeat.tzinfo is UTC or found.record.heartbeat.utcoffset() == timedelta()


def test_a_run_that_was_killed_is_not_called_live_by_a_clock_that_was_set_back(
    clock: Clock, blocks: Path, tmp_path: Path
) -> None:
    from tests.training.interruptions import Ending, Place
    from tests.training.tiny_runs import configure, write_blocks

    tiny = Place(blocks=write_blocks(tmp_path), storage=tmp_path)
    config = configure({"name": "tiny"})
    assert tiny.run(config, Ending(kind="killed after a sign of life", step=5)) == [-9]
    clock.set_by(-DAYS)
    assert certify(Location.of(tmp_path / "tiny")).state is State.LOST
