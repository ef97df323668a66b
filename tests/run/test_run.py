"""Whatever ends a run, its folder says so."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig, TrainingConfig
from worldmodel.run.record import RunRecord, State, read_commit
from worldmodel.run.run import Run
from worldmodel.run.run_folder import (
    LOST_SECONDS,
    find_runs,
    judge_life,
    read_config,
    read_record,
    request_stop,
    start_run,
)
from worldmodel.storage import Location

CONFIG = ExperimentConfig(name="trial", goal="to see")


@pytest.fixture
def storage(tmp_path: Path) -> Location:
    return Location.of(tmp_path / "runs")


def wait_for(is_so: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert is_so()


def exhaust_memory() -> None:
    raise MemoryError("out of memory")


def complain() -> None:
    raise UserError("no games in DIR; name a folder with games")


def press_ctrl_c() -> None:
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)


@pytest.mark.parametrize(
    ("act", "error", "state", "reason"),
    [
        (exhaust_memory, MemoryError, State.FAILED, "MemoryError: out of memory"),
        (complain, UserError, State.FAILED, "no games in DIR; name a folder with games"),
        (press_ctrl_c, KeyboardInterrupt, State.STOPPED, "interrupted (Ctrl-C)"),
        (lambda: sys.exit(3), SystemExit, State.FAILED, "the program exited with status 3"),
        (lambda: sys.exit(0), SystemExit, State.STOPPED, "the program exited before its end"),
    ],
)
def test_what_ends_a_run_is_recorded_and_goes_on(
    storage: Location, act: Callable[[], None], error: type[BaseException], state: State, reason: str
) -> None:
    run = start_run(storage, CONFIG, total_steps=10)
    with pytest.raises(error), run.recording():
        run.note_step(4)
        logging.getLogger("loop").warning("step 4 done")
        act()
    record = read_record(run.location)
    assert (record.state, record.reason, record.step) == (state, reason, 4)
    assert error.__name__ in record.traceback
    assert record.last_lines == ["WARNING loop: step 4 done"]
    assert record.resume_command.endswith(" --resume")
    assert record.ended is not None


def test_only_the_last_lines_are_kept(storage: Location) -> None:
    run = start_run(storage, CONFIG)
    with pytest.raises(ValueError), run.recording():
        run.lines.extend(f"line {k}" for k in range(200))
        raise ValueError
    assert read_record(run.location).last_lines == [f"line {k}" for k in range(150, 200)]


def test_a_run_that_does_all_its_steps_is_finished_even_if_asked_to_stop(storage: Location) -> None:
    run = start_run(storage, CONFIG, total_steps=3)
    with run.recording():
        assert read_record(run.location).state is State.CREATED
        run.note_step(3, metrics={"loss/total": 1.5, "grad": float("nan")})
        request_stop(run.location, "too late")
        wait_for(run.should_stop)
    record = read_record(run.location)
    assert (record.state, record.reason, record.traceback) == (State.FINISHED, "", "")
    assert record.metrics == {"loss/total": 1.5, "grad": None}


def test_running_begins_with_the_first_step_and_is_soon_written(
    storage: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worldmodel.run.run.FLUSH_SECONDS", 0.1)
    run = start_run(storage, CONFIG)
    with run.recording():
        run.update(device={"name": "cpu"})
        wait_for(lambda: read_record(run.location).device)
        assert read_record(run.location).state is State.CREATED
        run.note_step(1)
        wait_for(lambda: read_record(run.location).state is State.RUNNING)


def test_signs_of_life_come_without_progress(storage: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldmodel.run.run.HEARTBEAT_SECONDS", 0.1)
    run = start_run(storage, CONFIG)
    with run.recording():
        before = read_record(run.location)
        wait_for(lambda: read_record(run.location).heartbeat > before.heartbeat + timedelta(seconds=0.3))
        assert read_record(run.location).updated == before.updated


def test_the_stop_file_stops_a_run_within_seconds(storage: Location) -> None:
    run = start_run(storage, CONFIG, total_steps=10)
    with run.recording():
        assert run.should_stop() is None
        request_stop(run.location, "budget spent")
        wait_for(run.should_stop, seconds=3)
    record = read_record(run.location)
    assert (record.state, record.reason) == (State.STOPPED, "budget spent")


@pytest.mark.parametrize(
    ("number", "reason", "ending"),
    [
        (signal.SIGTERM, "SIGTERM: the process was asked to end", SystemExit),
        (signal.SIGINT, "interrupted (Ctrl-C)", KeyboardInterrupt),
    ],
)
def test_the_first_signal_asks_and_the_second_ends(
    storage: Location, number: signal.Signals, reason: str, ending: type[BaseException]
) -> None:
    before = signal.getsignal(number)
    run = start_run(storage, CONFIG, total_steps=10)
    with pytest.raises(ending) as caught, run.recording():
        os.kill(os.getpid(), number)
        assert run.should_stop() == reason
        os.kill(os.getpid(), number)
    assert not isinstance(caught.value, SystemExit) or caught.value.code == 128 + number
    record = read_record(run.location)
    assert (record.state, record.reason) == (State.STOPPED, reason)
    assert signal.getsignal(number) is before


CHILD = """
import sys, time
from worldmodel.storage import Location
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.run.run_folder import start_run
run = start_run(Location.of(sys.argv[1]), ExperimentConfig(name="trial"), total_steps=10)
with run.recording():
    run.note_step(1)
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("is_warned", "state", "reason"),
    [(True, State.STOPPED, "SIGTERM.*; killed before"), (False, State.LOST, "no sign of life from .*killed or")],
)
def test_a_killed_process_is_told_from_a_living_one(
    storage: Location, is_warned: bool, state: State, reason: str
) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(storage)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        place = storage / "trial"
        with pytest.raises(UserError, match=rf"still running on .* \(process {child.pid}\)"):
            start_run(storage, CONFIG, resume=True)
        if is_warned:
            child.send_signal(signal.SIGTERM)
            wait_for(lambda: read_record(place).reason, seconds=3)
    finally:
        child.kill()
        child.communicate()
    record = read_record(place)
    assert record.state is state
    assert re.search(reason, record.reason)
    resumed = start_run(storage, replace(CONFIG, goal=""), resume=True)
    assert [attempt.state for attempt in resumed.record.attempts] == [state]


def test_silence_means_lost_only_while_a_run_should_speak() -> None:
    record = RunRecord(name="a", state=State.RUNNING)
    soon, late = (record.heartbeat + timedelta(seconds=s) for s in (LOST_SECONDS - 1, LOST_SECONDS + 1))
    assert judge_life(record, soon).state is State.RUNNING
    assert judge_life(record, late).state is State.LOST
    ended = record.model_copy(update={"state": State.FINISHED})
    assert judge_life(ended, late) == ended


def test_a_name_is_never_reused_silently(storage: Location) -> None:
    run = start_run(storage, CONFIG, total_steps=10)
    with run.recording():
        run.note_step(10)
    with pytest.raises(UserError, match=r"'trial' in .* already: finished at step 10 of 10.*--resume.*--run-name"):
        start_run(storage, CONFIG)


def test_a_run_has_its_own_wandb_page(storage: Location) -> None:
    """Also where another run had the same folder, as after a re-training; a resume goes on in the page."""
    ids = []
    for _ in range(2):
        run = start_run(storage, CONFIG)
        with run.recording():
            run.note_step(1)
        ids += [run.record.wandb_id, start_run(storage, CONFIG, resume=True).record.wandb_id]
        shutil.rmtree(str(storage))
    assert ids[0] == ids[1] != ids[2] == ids[3]


def test_a_resumed_run_keeps_what_it_did_and_drops_its_end(storage: Location) -> None:
    run = start_run(storage, CONFIG, data_fingerprint="abc")
    with pytest.raises(ValueError), run.recording():
        run.note_step(5, epoch=1, metrics={"lr": 1.0})
        run.note("W&B is offline")
        run.note("W&B is offline")
        time.sleep(0.05)
        raise ValueError("died")
    before = read_record(run.location)
    (run.location / "STOP").write_text("old")
    more = replace(CONFIG, training=TrainingConfig(num_epochs=9))
    resumed = start_run(storage, more, resume=True, data_fingerprint="abc")
    with resumed.recording():
        assert resumed.should_stop() is None
    record = read_record(run.location)
    assert (record.step, record.epoch, record.metrics, record.notes) == (5, 1, {"lr": 1.0}, ["W&B is offline"])
    assert (record.state, record.reason, record.traceback) == (State.FINISHED, "", "")
    assert [(a.state, a.reason, a.step) for a in record.attempts] == [(State.FAILED, "ValueError: died", 5)]
    assert record.started == before.started
    assert record.seconds.total >= before.seconds.total >= 0.05
    assert read_config(run.location) == more


@pytest.mark.parametrize("ended", [State.FAILED, State.LOST])
def test_a_restarted_worker_makes_the_run_live_again(storage: Location, ended: State) -> None:
    record = start_run(storage, CONFIG).record
    older = record.model_copy(update={"state": ended, "reason": "node lost", "traceback": "T", "last_lines": ["x"]})
    run = Run(storage / "trial", older)
    with run.recording():
        alive = read_record(run.location)
        assert (alive.state, alive.reason, alive.traceback, alive.ended) == (State.CREATED, "", "", None)
        run.note_step(1)
        assert run.record.state is State.RUNNING
    assert read_record(run.location).state is State.FINISHED


def test_a_resume_as_another_experiment_is_refused_with_every_difference(storage: Location) -> None:
    start_run(storage, CONFIG, data_fingerprint="abc").update()
    record = RunRecord.model_validate_json((storage / "trial/run.json").read_text())
    (storage / "trial/run.json").write_text(record.model_copy(update={"state": State.FAILED}).model_dump_json())
    other = replace(CONFIG, training=TrainingConfig(lr=0.5, seed=3, num_epochs=7))
    with pytest.raises(UserError) as caught:
        start_run(storage, other, resume=True, data_fingerprint="xyz")
    lines = str(caught.value).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == ["training.lr", "training.seed", "data"]


def test_a_resume_of_nothing_names_the_nearest_run(storage: Location) -> None:
    start_run(storage, CONFIG)
    with pytest.raises(UserError, match=r"no run 'trail'.*did you mean 'trial'"):
        start_run(storage, replace(CONFIG, name="trail"), resume=True)


def test_all_runs_of_a_storage_are_found_and_a_torn_record_is_named(storage: Location) -> None:
    for folder, name in ((storage, "one"), (storage / "grid", "two"), (storage / "grid", "three")):
        start_run(folder, replace(CONFIG, name=name))
    (storage / "torn/run.json").write_text('{"name": "to')
    (storage / "no run/notes.txt").write_text("x")
    found = {run.record.name: run for run in find_runs(storage)}
    assert set(found) == {"one", "two", "three", "torn"}
    assert found["two"].location == storage / "grid" / "two"
    assert "run.json cannot be understood" in found["torn"].record.reason
    assert found["one"].record.state is State.CREATED


def test_a_run_that_is_not_running_cannot_be_stopped(storage: Location) -> None:
    run = start_run(storage, CONFIG)
    with run.recording():
        pass
    with pytest.raises(UserError, match="trial is not running: finished"):
        request_stop(run.location)


def test_cost_is_price_times_time_or_unknown() -> None:
    record = RunRecord(name="a", seconds={"total": 1800.0}, price_per_hour_usd=1.5)
    assert record.cost_usd == 0.75
    assert RunRecord(name="a").cost_usd is None


def test_a_record_survives_its_file(storage: Location) -> None:
    run = start_run(storage, CONFIG, device={"name": "cpu", "cores": 2}, parameters=12)
    assert RunRecord.model_validate_json((run.location / "run.json").read_text()) == run.record
    assert json.loads((run.location / "run.json").read_text())["goal"] == "to see"


def test_a_folder_that_vanishes_does_not_hide_the_error(storage: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    run: Run = start_run(storage, CONFIG)
    with pytest.raises(ValueError) as caught, run.recording():
        (storage / "trial").delete()
        storage.delete()
        Path(str(storage)).write_text("in the way")
        raise ValueError("the first error")
    assert str(caught.value) == "the first error"
    assert "record could not be written" in caught.value.__notes__[0]


def test_the_commit_is_that_of_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path(__file__).parents[2]
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    if asked.returncode:
        pytest.skip("not a git checkout")
    assert (read_commit() or "").removesuffix("-dirty") == asked.stdout.strip()
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("WORLDMODEL_COMMIT", "abc")
    assert read_commit() == "abc"
