"""Following and stopping runs and grids: every line once, the right exit status, and a reason that stays."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.s3_server import serve_s3, use_s3
from tune.record import GridRecord, TrialName, write_grid
from worldmodel.cli.followed import LogTrail
from worldmodel.cli.main import main
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.run.log_file import LOG, LogFile
from worldmodel.run.record import State
from worldmodel.run.run import POLL_SECONDS, REMOTE_POLL_SECONDS, Run
from worldmodel.run.run_folder import read_record, start_run
from worldmodel.run.stop_request import STOP
from worldmodel.storage import Location

STEPS = 1000


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks for what is new are close together."""
    assert REMOTE_POLL_SECONDS < 10
    monkeypatch.setitem(POLL_SECONDS, "file", 0.05)
    monkeypatch.setitem(POLL_SECONDS, "s3", 0.05)


@pytest.fixture
def storage(tmp_path: Path) -> Location:
    return Location.of(tmp_path / "runs")


@contextmanager
def training(storage: Location, name: str, steps: int = STEPS, error: Exception | None = None) -> Iterator[Run]:
    """A run that logs a line a step beside the test, until it is asked to stop or has done its steps."""
    run = start_run(storage, ExperimentConfig(name=name), total_steps=steps)

    def work() -> None:
        with run.recording():
            log = LogFile(run.location, run.note)
            for step in range(1, steps + 1):
                if run.should_stop():
                    break
                run.note_step(step)
                log.write(f"step {step}")
                time.sleep(0.02)
            log.close()
            if error:
                raise error

    thread = threading.Thread(target=work if error is None else lambda: _swallow(work), daemon=True)
    thread.start()
    try:
        yield run
    finally:
        (run.location / STOP).write_text("the test is over")
        thread.join(10)


def _swallow(work: threading.Thread | object) -> None:
    with pytest.raises(ValueError, match="a cause"):
        work()  # type: ignore[operator]


def wait_for_step(run: Run, step: int) -> None:
    deadline = time.monotonic() + 10
    while run.record.step < step:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@given(st.lists(st.binary(max_size=6), max_size=12))
def test_a_growing_log_gives_every_line_once_and_no_half_one(pieces: list[bytes]) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        trail, found, written = LogTrail(Location.of(folder)), [], b""
        for piece in pieces:
            written += piece.replace(b"\r", b"\n").replace(b"\x1c", b"").replace(b"\x1d", b"")
            (Path(folder) / LOG).write_bytes(written)
            found += trail.read_new()
        whole = written[: written.rfind(b"\n") + 1]
        assert found == whole.decode(errors="replace").splitlines()


def test_tail_shows_every_line_until_the_end(storage: Location, capsys: pytest.CaptureFixture[str]) -> None:
    with training(storage, "tiny", steps=40) as run:
        wait_for_step(run, 3)
        assert main(["tail", str(run.location), "--lines", "1000"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split(" ", 2)[2] for line in shown[:-1]] == [f"step {step}" for step in range(1, 41)]
    assert shown[-1].startswith("tiny: finished at step 40 of 40")


@pytest.mark.parametrize(("count", "expected"), [(2, ["step 4", "step 5"]), (0, [])])
def test_tail_begins_with_the_last_lines(
    storage: Location, capsys: pytest.CaptureFixture[str], count: int, expected: list[str]
) -> None:
    with training(storage, "tiny", steps=5) as run:
        assert main(["tail", str(run.location), "--lines", "0"]) == 0
    capsys.readouterr()
    assert main(["tail", "tiny", "--storage", str(storage), "--lines", str(count)]) == 0
    assert [line.split(" ", 2)[2] for line in capsys.readouterr().out.splitlines()[:-1]] == expected


def test_a_failed_runs_tail_ends_with_1_the_reason_and_how_to_go_on(
    storage: Location, capsys: pytest.CaptureFixture[str]
) -> None:
    with training(storage, "tiny", steps=3, error=ValueError("a cause")) as run:
        assert main(["tail", str(run.location)]) == 1
    shown = capsys.readouterr().out
    assert "tiny: failed at step 3" in shown
    assert "ValueError: a cause" in shown
    assert f"go on with it: {run.record.resume_command}" in shown


def test_a_run_without_a_log_shows_the_lines_of_its_record(
    storage: Location, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start_run(storage, ExperimentConfig(name="older"), total_steps=1)
    with run.recording():
        run.note_step(1)
        run.lines.extend(["first", "second"])
    assert main(["tail", str(run.location), "--lines", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "second"


def test_tail_reads_an_object_store(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with serve_s3() as url:
        use_s3(monkeypatch, url)
        with training(Location.of("s3://games/runs"), "far", steps=10):
            assert main(["tail", "far", "--storage", "s3://games/runs", "--lines", "20"]) == 0
        shown = capsys.readouterr().out.splitlines()
        assert [line.split(" ", 2)[2] for line in shown[:-1]] == [f"step {step}" for step in range(1, 11)]


def test_a_stopped_run_says_why_and_its_tail_ends_with_130(
    storage: Location, capsys: pytest.CaptureFixture[str]
) -> None:
    with training(storage, "tiny") as run:
        wait_for_step(run, 2)
        assert main(["stop", "tiny", "--storage", str(storage), "--reason", "the GPU is needed"]) == 0
        assert f"worldmodel tail {run.location}" in capsys.readouterr().out
        assert main(["tail", str(run.location)]) == 130
    assert "the GPU is needed" in capsys.readouterr().out
    assert read_record(run.location).state is State.STOPPED


def test_stop_can_wait_for_the_end(storage: Location, capsys: pytest.CaptureFixture[str]) -> None:
    with training(storage, "tiny") as run:
        wait_for_step(run, 2)
        assert main(["stop", str(run.location), "--wait"]) == 0
        assert read_record(run.location).state is State.STOPPED
    assert "tiny: stopped at step" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("done", "run done is not running: finished at step 1 of 1"),
        ("tny", "did you mean 'tiny'?"),
        ("grid-don", "did you mean 'grid-done'?"),
        ("grid-done", "grid grid-done is not running: finished with 0 of 0 trials finished"),
    ],
)
def test_what_is_not_running_or_not_there_cannot_be_stopped(
    storage: Location, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    start_run(storage, ExperimentConfig(name="tiny"))
    done = start_run(storage, ExperimentConfig(name="done"), total_steps=1)
    with done.recording():
        done.note_step(1)
    start_run(storage / "grid-done", ExperimentConfig(name="1a-seed0"))
    write_grid(storage / "grid-done", GridRecord(name="grid-done", state=State.FINISHED))
    assert main(["stop", name, "--storage", str(storage)]) == 2
    assert said in capsys.readouterr().err
    assert not (storage / name / STOP).exists()


@pytest.fixture
def grid(storage: Location) -> Iterator[Location]:
    """A live grid of one trial that is done, one that trains, and one that has not begun."""
    folder = storage / "round1"
    done = start_run(folder, ExperimentConfig(name="1a-seed0"), total_steps=1)
    with done.recording():
        done.note_step(1)
    names = ("1a-seed0", "2a-seed0", "3a-seed0")
    trials = [TrialName(name=name, experiment=name[:2], seed=0) for name in names]
    record = GridRecord(name="round1", state=State.RUNNING, trials=trials, resume_command="python tune/round1.py")
    write_grid(folder, record)

    def close() -> None:
        while not (folder / STOP).exists() or read_record(folder / "2a-seed0").state in ("created", "running"):
            time.sleep(0.02)
        reason = (folder / STOP).read_text().strip()
        write_grid(folder, record.model_copy(update={"state": State.STOPPED, "reason": reason}))

    with training(folder, "2a-seed0"):
        thread = threading.Thread(target=close, daemon=True)
        thread.start()
        yield folder
        (folder / STOP).write_text("the test is over")
    thread.join(10)


def test_a_grid_is_followed_trial_by_trial_and_stopped_as_one(
    grid: Location, capsys: pytest.CaptureFixture[str]
) -> None:
    statuses: list[int] = []

    def stop() -> None:
        time.sleep(0.5)
        statuses.append(main(["stop", str(grid), "--reason", "enough"]))

    thread = threading.Thread(target=stop)
    thread.start()
    assert main(["tail", "round1", "--storage", str(grid.parent), "--lines", "1000"]) == 130
    thread.join()
    assert statuses == [0]
    lines = capsys.readouterr().out.splitlines()
    parts = [line.split(" | ", 1) for line in lines if " | " in line]
    by_trial = {name: [text for at, text in parts if at == name] for name in ("1a-seed0", "2a-seed0")}
    assert len(by_trial["1a-seed0"]) == 1
    assert by_trial["1a-seed0"][0].startswith("finished at step 1 of 1")
    *steps, end = by_trial["2a-seed0"]
    assert [line.split(" ", 2)[2] for line in steps] == [f"step {step}" for step in range(1, len(steps) + 1)]
    assert "(enough)" in end
    assert "round1: stopped with 1 of 3 trials finished (enough)" in lines
    assert lines[-1] == "go on with it: python tune/round1.py"
    assert not (grid / "1a-seed0" / STOP).exists()
    assert not (grid / "3a-seed0").exists()


def test_a_followed_end_is_one_json_object_and_lines_go_to_stderr(
    storage: Location, capfd: pytest.CaptureFixture[str]
) -> None:
    with training(storage, "tiny", steps=3) as run:
        assert main(["tail", str(run.location), "--json"]) == 0
    shown = capfd.readouterr()
    assert json.loads(shown.out)["state"] == "finished"
    assert "step 3" in shown.err


def test_ctrl_c_ends_the_following_alone(storage: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*given: object) -> None:
        raise KeyboardInterrupt

    with training(storage, "tiny") as run:
        with monkeypatch.context() as patch:
            patch.setattr("worldmodel.cli.follow.wait_for_end", press)
            assert main(["tail", str(run.location)]) == 130
        before = run.record.step
        wait_for_step(run, before + 2)
        assert (run.record.state, run.should_stop()) == (State.RUNNING, None)


def test_a_grid_s_record_leads_to_no_run_elsewhere(storage: Location, capsys: pytest.CaptureFixture[str]) -> None:
    mine = start_run(storage, ExperimentConfig(name="mine"))
    write_grid(storage / "grid", GridRecord(name="grid", state=State.RUNNING))
    record = json.loads((storage / "grid/grid.json").read_text())
    record["trials"] = [{"name": "../mine", "experiment": "1a", "seed": 0}]
    (storage / "grid/grid.json").write_text(json.dumps(record))
    assert main(["stop", "grid", "--storage", str(storage)]) == 2
    assert "grid.json cannot be understood" in capsys.readouterr().err
    assert not (mine.location / STOP).exists()


@pytest.mark.parametrize("verb", ["tail", "show"])
def test_what_a_run_says_does_not_steer_the_terminal(
    storage: Location, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    text = "a\tb\x1b[2J\x1b]0;title\x07\x08\x9b1mé\u202e"
    run = start_run(storage, ExperimentConfig(name="hostile"), total_steps=1)
    with run.recording():
        run.note_step(1)
    (run.location / LOG).write_text(f"{text}\n")
    (run.location / "card.md").write_text(f"{text}\n")
    main([verb, str(run.location)])
    assert capsys.readouterr().out.splitlines()[0].split() == ["a", "b]0;title1mé"]
