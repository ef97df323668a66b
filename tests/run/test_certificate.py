"""A run that was killed has a page that says so: written by whoever finds it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.s3_server import serve_s3, use_s3
from tests.training.interruptions import Ending, Place
from tests.training.tiny_runs import configure, write_blocks
from worldmodel.cli.main import main
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.machine.device_state import describe_state, find_memory_kill, render_state
from worldmodel.machine.process import identify, is_gone, read_start, read_uptime
from worldmodel.run import certificate, worker_loss
from worldmodel.run.card import render_card
from worldmodel.run.certificate import certify
from worldmodel.run.head_watch import HeadLostError
from worldmodel.run.record import RunRecord, State
from worldmodel.run.run_folder import LOST_SECONDS, judge_life, read_config, read_written, start_run
from worldmodel.run.tracking import read_metrics
from worldmodel.run.worker_loss import Silence, WorkerLostError, close_record
from worldmodel.storage import Location
from worldmodel.training.checkpoint_list import list_checkpoints

CONFIG = configure({"training.checkpoint_minutes": 1e-6, "name": "tiny"})


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blocks(tmp_path_factory.mktemp("games"))


@pytest.fixture(scope="module")
def corpse(blocks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed before its eighth step, with a newest checkpoint that is damaged."""
    folder = tmp_path_factory.mktemp("killed")
    assert Place(blocks=blocks, storage=folder).run(CONFIG, Ending(kind="killed after a sign of life", step=7)) == [-9]
    (list_checkpoints(Location.of(folder / "tiny"))[-1] / "state.json").write_text("torn")
    return folder / "tiny"


@pytest.fixture
def killed(corpse: Path, tmp_path: Path) -> Location:
    """A copy of it."""
    shutil.copytree(corpse, tmp_path / "tiny")
    return Location.of(tmp_path / "tiny")


def test_the_list_of_runs_writes_what_is_known_of_a_killed_one(
    killed: Location, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_written(killed).state is State.RUNNING
    assert main(["runs", "--storage", str(killed.parent)]) == 0
    shown = capsys.readouterr().out
    assert "lost" in shown
    assert "running" not in shown
    record = read_written(killed)
    assert (record.state, record.rank, record.ended_on) == (State.LOST, 0, record.hosts[0])
    assert "was killed or the machine lost" in record.reason
    assert record.checkpoint == "checkpoints/step-00000006"  # the newest is damaged
    assert any("step 7/" in line for line in record.last_lines)
    assert f"process {os.getpid()} on " in record.ended_by
    assert record.metrics["batch/loss"] is not None
    assert record.device_state["memory_available_bytes"] > 0
    card = (killed / "card.md").read_text()
    for part in ("## How it ended", "- Cause: no sign of life", "worker 0 on ", "`checkpoints/step-00000006`", "GiB",
                 "- Last metrics: batch/loss ", "- Cost: ", "--resume`", "step 7/"):  # fmt: skip
        assert part in card
    assert certify(killed) == record  # nothing is written twice


def test_the_next_start_writes_it_as_well_and_goes_on(killed: Location, blocks: Path) -> None:
    place = Place(blocks=blocks, storage=Path(str(killed.parent)))
    record = certify(killed)
    assert place.run(CONFIG) == [0]
    done = place.read(CONFIG)
    assert (done.state, done.ended_by, done.rank) == (State.FINISHED, "", None)
    assert [(a.state, a.reason) for a in done.attempts] == [(State.LOST, record.reason)]
    assert "How it ended" not in render_card(done, read_config(killed), read_metrics(killed))


def test_a_process_that_lives_is_never_written_off(tmp_path: Path) -> None:
    run = start_run(Location.of(tmp_path), ExperimentConfig(name="tiny"), total_steps=9)
    with run.recording():
        run.note_step(1)
        run.write()
        before = read_written(run.location)
        assert certify(run.location).state is State.RUNNING
        assert read_written(run.location) == before


def test_a_number_that_was_given_again_is_not_the_process() -> None:
    own = identify()
    host = RunRecord(name="a").hosts[0]
    known = (host, own["pid"], own["pid_space"])
    assert not is_gone(*known, own["pid_start"])  # type: ignore[arg-type]
    assert is_gone(*known, int(str(own["pid_start"])) - 1)  # type: ignore[arg-type]


def test_a_process_of_another_container_or_boot_is_judged_by_its_silence_alone() -> None:
    record = RunRecord(name="a", state=State.RUNNING, pid=2**22 + 1, pid_space="another", pid_start=1)
    assert judge_life(record).state is State.RUNNING
    gone = record.model_copy(update={"pid_space": str(identify()["pid_space"])})
    assert judge_life(gone).state is State.LOST


@pytest.mark.skipif(read_uptime() is None, reason="this machine does not say how long it has been on")
@pytest.mark.parametrize("jump", [timedelta(days=-2), timedelta(days=2)])
def test_a_clock_that_was_set_neither_ends_nor_revives_a_run(jump: timedelta) -> None:
    now, uptime = datetime.now(UTC), read_uptime()
    assert uptime is not None
    live = RunRecord(name="a", state=State.RUNNING, heartbeat=now + jump, heartbeat_uptime=uptime - 1)
    assert judge_life(live).state is State.RUNNING
    silent = live.model_copy(update={"heartbeat_uptime": uptime - LOST_SECONDS - 1})
    assert judge_life(silent).state is State.LOST
    elsewhere = live.model_copy(update={"hosts": ["elsewhere"]})  # of its uptime nothing is known here
    assert judge_life(elsewhere).state is (State.LOST if jump < timedelta() else State.RUNNING)


def test_a_process_that_ended_and_was_not_asked_for_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    until = time.monotonic() + 20
    while read_start(child.pid) is not None and time.monotonic() < until:
        time.sleep(0.05)
    assert read_start(child.pid) is None
    child.wait()


def test_a_kill_for_lack_of_memory_is_named(killed: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    kills = describe_state()["memory_kills"]
    monkeypatch.setattr("worldmodel.machine.device_state.count_memory_kills", lambda: kills)
    assert find_memory_kill({"memory_kills": kills}) == find_memory_kill({}) == ""
    monkeypatch.setattr("worldmodel.machine.device_state.count_memory_kills", lambda: kills + 1)
    assert "killed a process for lack of memory" in certify(killed).reason


def test_a_machines_state_is_told_in_words() -> None:
    shown = render_state({"process_bytes": 3 * 2**30, "memory_available_bytes": 2**29, "load": 1.0})
    assert shown == "the process held 3 GiB, memory free 0.5 GiB"
    assert render_state(describe_state(folder=Path("/"))).count("GiB") >= 3


def test_the_driver_writes_for_a_worker_whose_machine_is_gone(killed: Location) -> None:
    error = WorkerLostError("the process of worker 0 is gone")
    error.rank = 0
    close_record(killed, error, ["the last line"])
    record = read_written(killed)
    assert (record.state, record.rank, record.ended_on) == (State.FAILED, 0, record.hosts[0])
    assert "the run's driver on" in record.ended_by
    assert record.checkpoint == "checkpoints/step-00000006"
    assert record.last_lines == ["the last line"]


def lose(rank: int | None) -> WorkerLostError:
    error = WorkerLostError("gone")
    error.rank = rank
    return error


@pytest.mark.parametrize(
    ("said", "cause", "is_kept"),
    [
        ("StalledError: no progress for 20 minutes", lose(None), True),  # the others are gone because it ended
        ("NonFiniteError: step 7", lose(0), True),
        ("NonFiniteError: step 7", HeadLostError("gone"), True),
        ("RuntimeError: gloo: connection closed by peer", lose(1), False),
        ("RuntimeError: gloo: connection closed by peer", HeadLostError("gone"), False),
    ],
)
def test_the_driver_keeps_what_a_worker_said_that_was_not_only_the_loss_of_another(
    killed: Location, said: str, cause: Exception, is_kept: bool
) -> None:
    written = read_written(killed).model_copy(update={"state": State.FAILED, "reason": said})
    (killed / "run.json").write_text(written.model_dump_json())
    close_record(killed, cause)
    assert read_written(killed).reason == (said if is_kept else f"{type(cause).__name__}: gone")


def test_a_worker_without_a_sign_of_life_is_given_up_by_the_drivers_own_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(worker_loss.time, "monotonic", lambda: now[0])
    run = start_run(Location.of(tmp_path), ExperimentConfig(name="tiny"), total_steps=9)
    run.update(pid=os.getpid() + 1, hosts=["elsewhere"])
    run.note_step(1)
    silence = Silence()
    for _ in range(20):  # it gives signs of life, by a clock that is days behind
        run.write()
        silence.look(run.location)
        now[0] += 30.0
    with pytest.raises(WorkerLostError, match="no sign of life from worker 0, last on elsewhere, for 30 minutes"):
        for _ in range(95):
            silence.look(run.location)
            now[0] += 20.0


def test_a_folder_that_cannot_be_written_is_read_all_the_same(
    killed: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worldmodel.object_store import StorageError

    def refuse(self: Location, content: str) -> None:
        raise StorageError("read only")

    monkeypatch.setattr(Location, "write_text", refuse)
    assert certify(killed).state is State.LOST
    assert read_written(killed).state is State.RUNNING


def test_the_last_lines_of_a_run_in_an_object_store_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_s3() as url:
        use_s3(monkeypatch, url)
        run = Location.of("s3://games/runs/a")
        assert certificate.read_last_lines(run) == []
        (run / "log.txt").write_text("".join(f"line {k}\n" for k in range(80)))
        assert certificate.read_last_lines(run) == [f"line {k}" for k in range(30, 80)]


def test_a_signal_that_was_heard_is_the_cause_of_a_kill_that_follows(killed: Location) -> None:
    written = read_written(killed).model_copy(update={"reason": f"SIGTERM {signal.SIGTERM}"})
    (killed / "run.json").write_text(written.model_dump_json())
    record = certify(killed)
    assert record.state is State.STOPPED
    assert re.search("SIGTERM .*; killed before it could end", record.reason)
    assert record.ended_by
