"""One process writes into a run's folder, and a dead one keeps nobody out."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.games_on_disk import encode_toy_games
from tests.s3_server import serve_s3, use_s3
from worldmodel.cli.main import main
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.run import lock as module
from worldmodel.run.lock import LOCK, LockedError, find_loss, is_held, read_holder, take_lock
from worldmodel.run.run import TakenOverError
from worldmodel.run.run_folder import read_record, start_run
from worldmodel.storage import Location

CHILD = """
import sys, time
from worldmodel.storage import Location
from worldmodel.run.lock import take_lock
with take_lock(Location.of(sys.argv[1])):
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with serve_s3() as url:
        yield url


@pytest.fixture(params=["disk", "store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Location:
    """A run's folder, on a disk and in an object store."""
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0.3)
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.5)
    if request.param == "disk":
        return Location.of(tmp_path / "run")
    use_s3(monkeypatch, request.getfixturevalue("endpoint"))
    return Location.of(f"s3://games/locks/{tmp_path.name}")


def test_the_second_is_refused_and_told_by_whom_until_the_first_is_done(folder: Location) -> None:
    with take_lock(folder):
        with pytest.raises(
            LockedError, match=rf"being written by a process on .* \(process {os.getpid()}\).*another name"
        ):
            take_lock(folder)
        assert is_held(folder)
    assert not (folder / LOCK).exists()
    take_lock(folder).release()


def test_of_many_at_once_one_gets_it(folder: Location) -> None:
    taken, refused = [], []
    ready = threading.Barrier(6)

    def race() -> None:
        ready.wait()
        try:
            taken.append(take_lock(folder))
        except LockedError:
            refused.append(1)

    threads = [threading.Thread(target=race) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), len(refused)) == (1, 5)
    taken[0].release()


def test_a_killed_process_keeps_nobody_out(folder: Location) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    with pytest.raises(LockedError, match=rf"process {child.pid}\)"):
        take_lock(folder)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    take_lock(folder).release()


def age(folder: Location, **changes: object) -> None:
    """Rewrites who has the lock."""
    found = json.loads((folder / LOCK).read_text())
    (folder / LOCK).write_text(json.dumps({**found, **changes}))


def test_a_process_of_another_machine_is_watched_before_it_is_taken_for_dead(folder: Location) -> None:
    first = take_lock(folder)
    first._closing.set()  # it falls silent
    first._thread.join()
    long_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    age(folder, host="elsewhere", heartbeat=long_ago)
    began = time.monotonic()
    second = take_lock(folder)
    assert time.monotonic() - began >= module.WATCH_SECONDS
    assert "another process writes there now" in (find_loss(folder, first.token) or "")
    second.release()


def test_a_process_whose_clock_is_behind_is_not_taken_for_dead(folder: Location) -> None:
    first = take_lock(folder)
    first._closing.set()
    first._thread.join()
    is_over = threading.Event()

    def live_on() -> None:
        ticks = 0
        while not is_over.wait(0.1):
            ticks += 1
            beat = datetime.now(UTC) - timedelta(hours=1) + timedelta(seconds=ticks)
            age(folder, host="elsewhere", heartbeat=beat.isoformat())

    age(folder, host="elsewhere", heartbeat=(datetime.now(UTC) - timedelta(hours=1)).isoformat())
    thread = threading.Thread(target=live_on)
    thread.start()
    with pytest.raises(LockedError, match="elsewhere"):
        take_lock(folder)
    is_over.set()
    thread.join()


def test_who_lost_the_lock_is_told_once_and_leaves_the_new_one(folder: Location) -> None:
    told: list[str] = []
    first = take_lock(folder, told.append)
    age(folder, token="another", host="elsewhere")
    until = time.monotonic() + 5
    while not told and time.monotonic() < until:
        time.sleep(0.05)
    first.release()
    assert len(told) == 1
    assert "on elsewhere" in told[0]
    holder = read_holder(folder)
    assert holder is not None
    assert holder.token == "another"


def test_a_run_that_another_process_has_taken_over_writes_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worldmodel.run.run.FLUSH_SECONDS", 0.05)
    storage, config = Location.of(tmp_path), ExperimentConfig(name="trial")
    with take_lock(storage / "trial") as lock:
        run = start_run(storage, config, lock=lock.token, total_steps=9)
        with pytest.raises(TakenOverError, match="another process writes there now"), run.recording():
            run.note_step(1)
            assert run.should_stop() is None
            age(run.location, token="another")
            until = time.monotonic() + 5
            while time.monotonic() < until:
                run.note_step(2)
                time.sleep(0.05)
                run.should_stop()
    assert read_record(run.location).state in ("created", "running")  # how it ends is the new one's to say


def test_a_second_training_of_one_name_is_refused_while_the_first_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the first has written any record, too."""
    encode_toy_games(tmp_path)
    (tmp_path / "tiny.yaml").write_text("model: {d_model: 32, d_state: 8, headdim: 16, n_layers: 1}\n")
    asked = ["train", str(tmp_path / "tiny.yaml"), "--data", str(tmp_path / "blocks"), "--storage", str(tmp_path)]
    with take_lock(Location.of(tmp_path / "tiny")):
        for more in ([], ["--resume"]):
            assert main([*asked, *more]) == 2
        said = capsys.readouterr().err
    assert f"written by a process on {socket.gethostname()} (process {os.getpid()})" in said
    assert not (tmp_path / "tiny").exists()  # who had it gave it back, and no run was begun


def test_what_cannot_be_understood_keeps_nobody_out(folder: Location) -> None:
    (folder / LOCK).write_text("torn")
    take_lock(folder).release()
