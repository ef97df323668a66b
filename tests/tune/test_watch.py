"""Whoever asks a grid to stop, every trial hears it, and its record says why."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from tests.run.test_reporter import GoneReader
from tests.tune.results_at_hand import make_record, make_trial
from tune import watch as watching
from tune.preparation import say
from tune.record import GridRecord, read_grid, write_grid
from tune.watch import GridWatch
from worldmodel.errors import UserError
from worldmodel.run.record import State
from worldmodel.run.run import POLL_SECONDS, RECORD
from worldmodel.run.stop_request import STOP
from worldmodel.storage import Location

NAMES = ("baseline", "1a", "2a")


@pytest.fixture
def watch(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> GridWatch:
    """Over a grid of which one trial runs, one has ended and one has not begun."""
    monkeypatch.setitem(POLL_SECONDS, "file", 0.05)
    monkeypatch.setattr(watching, "HEARTBEAT_SECONDS", 0.05)
    folder = Location.of(tmp_path_factory.mktemp("grid"))
    for name, state in (("baseline", State.RUNNING), ("1a", State.FINISHED)):
        record = make_record(name, 0, state=state)
        (folder / record.name / RECORD).write_text(record.model_dump_json())
    trials = [make_trial(name) for name in NAMES]
    return GridWatch(folder=folder, trials=trials, record=GridRecord(name="grid", state=State.RUNNING, seconds=100.0))


def wait_until(is_so: Callable[[], bool], seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def read_stop(folder: Location, name: str) -> str:
    place = folder / f"{name}-seed0" / STOP
    return place.read_text().strip() if place.exists() else ""


def check_stopped(watch: GridWatch, reason: str) -> None:
    wait_until(lambda: bool(read_stop(watch.folder, "baseline")) and bool(read_grid(watch.folder).reason))
    assert reason in watch.reason
    assert reason in read_stop(watch.folder, "baseline")
    assert read_stop(watch.folder, "1a") == ""  # it has ended already
    assert reason in (watch.folder / STOP).read_text()  # those that have not begun look here
    assert reason in read_grid(watch.folder).reason


def test_a_stop_file_of_the_grid_reaches_every_live_trial(watch: GridWatch) -> None:
    with watch.watching():
        (watch.folder / STOP).write_text("asked by somebody\n")
        check_stopped(watch, "asked by somebody")


def test_a_grid_whose_terminal_has_gone_hears_requests_nevertheless(
    watch: GridWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", GoneReader())
    watch.hear = lambda records: say("the first step of the first trial")
    with watch.watching():
        (watch.folder / STOP).write_text("enough\n")
        check_stopped(watch, "enough")


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_a_signal_reaches_every_live_trial(watch: GridWatch, number: int, reason: str) -> None:
    with watch.watching():
        os.kill(os.getpid(), number)
        check_stopped(watch, reason)


def test_the_budget_is_judged_by_the_time_of_all_attempts(watch: GridWatch) -> None:
    seen: list[float] = []

    def judge(seconds: float, records: object) -> str | None:
        seen.append(seconds)
        return "budget reached" if len(seen) > 2 else None

    watch.judge = judge
    with watch.watching():
        check_stopped(watch, "budget reached")
    assert seen[0] >= 100.0


def test_a_trial_that_begins_after_the_request_is_told_too(watch: GridWatch) -> None:
    with watch.watching():
        (watch.folder / STOP).write_text("enough\n")
        check_stopped(watch, "enough")
        (watch.folder / "2a-seed0" / RECORD).write_text(make_record("2a", 0, state=State.CREATED).model_dump_json())
        wait_until(lambda: read_stop(watch.folder, "2a") == "enough")


def test_a_ray_that_is_lost_ends_the_grid_soon_even_if_a_trial_still_runs(
    watch: GridWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "OVER_SECONDS", 0.2)
    losses = iter(("", "", "Ray's head does not answer"))
    watch.find_loss = lambda: next(losses)
    with watch.watching():
        check_stopped(watch, "Ray's head does not answer")  # who can still save itself does
        wait_until(lambda: watch.is_over)
    assert watch.loss == watch.reason


def test_a_ray_that_ends_with_a_grid_that_was_asked_to_is_no_loss(watch: GridWatch) -> None:
    watch.find_loss = lambda: "Ray's head does not answer" if watch.reason else ""
    with watch.watching():
        (watch.folder / STOP).write_text("enough\n")
        check_stopped(watch, "enough")
        time.sleep(0.3)
    assert (watch.loss, watch.reason) == ("", "enough")


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (RuntimeError("Ray did not start"), State.FAILED, "RuntimeError: Ray did not start"),
        (UserError("no room"), State.FAILED, "no room"),
        (KeyboardInterrupt(), State.STOPPED, "interrupted (Ctrl-C)"),
    ],
)
def test_an_error_that_ends_a_grid_is_on_record(
    watch: GridWatch, error: BaseException, state: State, reason: str
) -> None:
    with pytest.raises(type(error)), watch.watching():
        raise error
    found = read_grid(watch.folder)
    assert (found.state, found.reason) == (state, reason)
    assert found.ended is not None


def test_a_grid_that_goes_on_forgets_the_request_that_ended_it(watch: GridWatch) -> None:
    (watch.folder / STOP).write_text("enough\n")
    with watch.watching():
        time.sleep(0.2)
        assert watch.reason == ""
        assert not (watch.folder / STOP).exists()


def test_the_record_has_signs_of_life_and_the_time_of_all_attempts(watch: GridWatch) -> None:
    with watch.watching():
        first = read_grid(watch.folder)
        wait_until(lambda: read_grid(watch.folder).heartbeat > first.heartbeat)
    watch.close(State.FINISHED, "")
    found = read_grid(watch.folder)
    assert found.state is State.FINISHED
    assert found.ended is not None
    assert found.seconds > 100.0


@pytest.mark.parametrize(("reason", "state"), [("", State.LOST), ("SIGTERM", State.STOPPED)])
def test_a_grid_whose_driver_was_killed_is_not_running(watch: GridWatch, reason: str, state: State) -> None:
    silent = datetime.now(UTC) - timedelta(minutes=5)
    write_grid(watch.folder, watch.record.model_copy(update={"heartbeat": silent, "reason": reason}))
    assert read_grid(watch.folder).state is state
