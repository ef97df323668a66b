"""A Ray head that is gone is noticed before Ray ends the driver, and a worker that still trains saves itself first."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from worldmodel.experiment.config import ExperimentConfig
from worldmodel.run import head_watch
from worldmodel.run.head_watch import HeadLostError, HeadWatch
from worldmodel.run.record import State
from worldmodel.run.run_folder import read_record, start_run
from worldmodel.storage import Location


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_watch, "ASK_SECONDS", 0.01)
    monkeypatch.setattr(head_watch, "GONE_SECONDS", 0.3)


def look_until_lost(watch: HeadWatch, run: Location, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            watch.look(run)
        except HeadLostError as error:
            assert "has not answered for 0 s: it was ended or lost" in str(error)
            return True
        time.sleep(0.02)
    return False


def test_a_head_that_answers_is_there_and_one_that_does_not_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_watch, "SAVE_SECONDS", 0.0)
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as server:
        watch = HeadWatch(address=f"127.0.0.1:{server.getsockname()[1]}")
        assert not look_until_lost(watch, Location.of(tmp_path), 0.8)
    assert look_until_lost(watch, Location.of(tmp_path), 10)


def test_time_before_the_first_question_is_no_silence() -> None:
    watch = HeadWatch(address="127.0.0.1:1")
    time.sleep(0.4)  # longer than a head may be silent
    for _ in range(3):
        assert watch.find_loss() == ""
        time.sleep(0.02)


def test_a_first_worker_that_still_trains_saves_itself_and_says_why(tmp_path: Path) -> None:
    run = start_run(Location.of(tmp_path), ExperimentConfig(name="trial"), total_steps=10**9)

    def train() -> None:
        with run.recording():
            while run.should_stop() is None:
                run.note_step(run.record.step + 1)
                time.sleep(0.01)

    worker = threading.Thread(target=train)
    worker.start()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        watch = HeadWatch(address=f"127.0.0.1:{nobody.getsockname()[1]}")
        assert look_until_lost(watch, run.location, 30)
    record = read_record(run.location)  # it has ended before the loss is raised
    worker.join()
    assert record.state is State.STOPPED
    assert record.reason.startswith("Ray's head at 127.0.0.1:")


def test_a_worker_that_is_gone_with_the_head_leaves_no_request_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_watch, "SAVE_SECONDS", 0.0)
    run = start_run(Location.of(tmp_path), ExperimentConfig(name="trial"), total_steps=9)
    with pytest.raises(HeadLostError, match=r"Ray.s head at 127\.0\.0\.1:1 does not answer"):
        HeadWatch(address="127.0.0.1:1").judge(run.location)
    assert not (run.location / "STOP").exists()
