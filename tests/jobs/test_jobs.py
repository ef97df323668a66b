"""Round 1 as a Ray job on a real head node: it outlives its client, its trials' deaths and its driver's."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.games_on_disk import encode_toy_games
from tests.jobs.head_node import JOB_SECONDS, ROOT, HeadNode, start_head, wait_for
from tune.record import GridRecord, read_grid
from worldmodel.cli.main import main
from worldmodel.rollout.evaluation import EVALUATION
from worldmodel.run.log_file import LOG
from worldmodel.run.record import RunRecord
from worldmodel.run.run import RECORD
from worldmodel.run.run_folder import read_record
from worldmodel.run.stop_request import STOP
from worldmodel.run.tracking import METRICS
from worldmodel.storage import Location
from worldmodel.training.checkpoint_list import newest_good

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.xdist_group("ray"), pytest.mark.timeout(400)]
TINY = (
    "model.d_model=32", "model.d_state=8", "model.headdim=16", "model.n_layers=1", "training.sequence_length=64",
    "training.batch_size=16", "training.amp=false", "training.device=cpu", "training.log_interval=4",
    "tracking.wandb=disabled",
)  # fmt: skip
SHORT, EPOCHS, ENDLESS = "training.max_steps=8", "training.num_epochs=24", "training.num_epochs=4000"
TRIALS = ("baseline-seed0", "1a-seed0")
UPLOAD_BYTES = 2_000_000


@pytest.fixture(scope="module")
def head() -> Iterator[HeadNode]:
    """A head node with one CPU, so that the trials of a grid come one after the other."""
    with start_head(cpus=1) as node:
        yield node


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with encoded games."""
    folder = tmp_path_factory.mktemp("jobs")
    encode_toy_games(folder)
    return folder


def ask(place: Path, name: str, length: str, *more: str) -> list[str]:
    """The command of a grid of two trials."""
    where = ["--data", str(place / "blocks"), "--storage", str(place / "runs"), "--name", name]
    return ["python", "tune/round1.py", *where, "--experiments", "baseline", "1a", "--set", *TINY, length, *more]


@pytest.fixture(scope="module")
def finished(head: HeadNode, place: Path) -> Path:
    """The folder of a grid whose job, submitted without a working directory, ran to its end undisturbed."""
    status, said = head.submit("finished", ask(place, "finished", EPOCHS))
    assert status == 0, said
    assert head.read_status("finished") == "SUCCEEDED"
    assert "report.html" in said
    return place / "runs" / "finished"


def read_trial(folder: Path, trial: str) -> RunRecord | None:
    location = Location.of(folder / trial)
    return read_record(location) if (location / RECORD).exists() else None


def has_reached(folder: Path, trial: str, step: int) -> bool:
    record = read_trial(folder, trial)
    return record is not None and record.state == "running" and record.step >= step


def wait_for_step(folder: Path, trial: str, step: int) -> RunRecord:
    wait_for(lambda: has_reached(folder, trial, step), JOB_SECONDS, f"step {step} of {trial}")
    record = read_trial(folder, trial)
    assert record is not None
    return record


def read_rows(folder: Path) -> dict[str, object]:
    return {trial: json.loads((folder / trial / EVALUATION).read_text())["rows"] for trial in TRIALS}


def read_results(folder: Path) -> list[tuple[str, object]]:
    return [(trial["name"], trial["metrics"]) for trial in json.loads((folder / "results.json").read_text())["trials"]]


def test_a_job_without_a_working_directory_runs_the_checkout_that_ray_started_in(finished: Path) -> None:
    grid = read_grid(Location.of(finished))
    assert grid.state == "finished"
    assert grid.command.startswith("ray job submit -- python tune/round1.py --data")
    for trial in TRIALS:
        record = read_trial(finished, trial)
        assert record is not None
        assert record.state == "finished"
        assert record.commit == grid.commit


def test_a_trials_command_is_the_grids_and_no_workers(finished: Path) -> None:
    command = read_grid(Location.of(finished)).command
    for trial in TRIALS:
        record = read_trial(finished, trial)
        assert record is not None
        assert record.command == command
        assert "default_worker" not in record.resume_command


def test_a_wrong_request_fails_the_job_before_anything_is_spent(head: HeadNode, place: Path) -> None:
    command = ["python", "tune/round1.py", "--storage", str(place / "runs"), "--name", "wrong", "--experiments", "3b"]
    status, said = head.submit("wrong", command)
    assert status == 1
    assert "unknown experiment '3b'" in said
    assert "exit code 2" in said
    assert head.read_status("wrong") == "FAILED"
    assert not (place / "runs" / "wrong").exists()


def copy_checkout(to: Path) -> Path:
    """The checkout's files as they are, without their history, and with what a worked-in folder has besides."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, to / name)
    for name in (".venv/lib/big.so", "data/game.slp", "runs/old/checkpoints/step-1/weights.safetensors", "mine/x.pt"):
        (to / name).parent.mkdir(parents=True)
        (to / name).write_bytes(os.urandom(3_000_000))
    return to


def test_an_upload_is_small_and_its_code_runs_everywhere_though_its_client_is_killed(
    head: HeadNode, place: Path, tmp_path: Path
) -> None:
    checkout = copy_checkout(tmp_path / "laptop")
    version = checkout / "worldmodel" / "__init__.py"
    version.write_text(version.read_text().replace("__version__ = ", '__version__ = "7.7.7" or '))
    program = "from worldmodel.run.record import hash_source; print(hash_source()[:12])"
    asked = subprocess.run([sys.executable, "-c", program], cwd=checkout, capture_output=True, text=True, check=True)
    words = ["job", "submit", "--submission-id", "upload", "--working-dir", ".", "--", *ask(place, "upload", SHORT)]
    client = head.start_ray(*words, folder=checkout)
    wait_for(lambda: (place / "runs/upload/grid.json").exists(), JOB_SECONDS, "the grid")
    os.killpg(client.pid, signal.SIGKILL)
    client.wait()
    packages = list(Path(psutil.Process(read_grid(Location.of(place / "runs/upload")).pid).cwd()).rglob("*"))
    assert sum(path.stat().st_size for path in packages if path.is_file()) < UPLOAD_BYTES
    assert not any(path.suffix in (".so", ".slp", ".pt", ".safetensors") for path in packages)
    wait_for(lambda: head.read_status("upload") != "RUNNING", JOB_SECONDS, "the job's end")
    assert head.read_status("upload") == "SUCCEEDED"
    grid = read_grid(Location.of(place / "runs/upload"))
    assert grid.commit == f"source-{asked.stdout.strip()}"
    assert grid.command.startswith("ray job submit --working-dir . -- python tune/round1.py")
    for trial in TRIALS:
        record = read_trial(place / "runs/upload", trial)
        assert record is not None
        assert (record.state, record.version, record.commit) == ("finished", "7.7.7", grid.commit)
    status, said = head.run_ray("job", "logs", "-f", "upload")
    assert status == 0
    assert "report.html" in said
    assert "succeeded" in said


def test_a_killed_trial_goes_on_alone_and_a_stopped_job_leaves_checkpoints_and_a_reason(
    head: HeadNode, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = place / "runs" / "stopped"
    head.run_ray(
        "job", "submit", "--no-wait", "--submission-id", "stopped", "--", *ask(place, "stopped", ENDLESS)
    )  # fmt: skip
    first = wait_for_step(folder, TRIALS[0], 20)
    os.kill(first.pid, signal.SIGKILL)
    wait_for(lambda: (read_trial(folder, TRIALS[0]) or first).pid != first.pid, JOB_SECONDS, "another process")
    second = wait_for_step(folder, TRIALS[0], first.step + 8)
    assert [attempt.state for attempt in second.attempts] == ["lost"]
    assert head.read_status("stopped") == "RUNNING"

    status, said = head.run_ray("job", "stop", "stopped")
    assert status == 0
    assert "was stopped" in said
    record = read_trial(folder, TRIALS[0])
    assert record is not None
    assert record.state == "stopped"
    assert "SIGTERM" in record.reason
    newest = newest_good(Location.of(folder / TRIALS[0])).checkpoint
    assert newest is not None
    assert newest.state.step == record.step >= second.step
    assert read_trial(folder, TRIALS[1]) is None
    grid = read_grid(Location.of(folder))
    assert grid.state == "stopped"
    assert "SIGTERM" in grid.reason
    capsys.readouterr()
    assert main(["tail", str(folder)]) == 130
    assert f"go on with it: {grid.resume_command}" in capsys.readouterr().out
    assert "resumed from" in (folder / TRIALS[0] / LOG).read_text()


def test_a_grid_that_is_asked_to_stop_ends_its_job(
    head: HeadNode, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = place / "runs" / "asked"
    head.run_ray("job", "submit", "--no-wait", "--submission-id", "asked", "--", *ask(place, "asked", ENDLESS))
    wait_for_step(folder, TRIALS[0], 8)
    assert main(["stop", str(folder), "--reason", "enough is known", "--wait"]) == 0
    assert "stopped with 0 of 2 trials finished" in capsys.readouterr().out
    record = read_trial(folder, TRIALS[0])
    assert record is not None
    assert (record.state, record.reason) == ("stopped", "enough is known")
    assert not (folder / TRIALS[1] / RECORD).exists()
    wait_for(lambda: head.read_status("asked") != "RUNNING", JOB_SECONDS, "the job's end")
    said = head.run_ray("job", "status", "asked")[1]
    assert "exit code 130" in said
    assert main(["stop", str(folder)]) == 2
    assert "grid asked is not running: stopped" in capsys.readouterr().err


def test_a_killed_driver_is_followed_by_a_resume_that_does_only_what_is_missing(
    head: HeadNode, place: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = place / "runs" / "resumed"
    head.run_ray("job", "submit", "--no-wait", "--submission-id", "first", "--", *ask(place, "resumed", EPOCHS))
    trial = wait_for_step(folder, TRIALS[1], 24)
    driver: GridRecord = read_grid(Location.of(folder))
    os.kill(driver.pid, signal.SIGKILL)
    wait_for(lambda: head.read_status("first") == "FAILED", JOB_SECONDS, "the job's end")
    wait_for(lambda: not psutil.pid_exists(trial.pid), 30, "the trial's end")
    assert main(["tail", str(folder)]) == 1
    assert "resumed: lost with 1 of 2 trials finished" in capsys.readouterr().out
    kept = {name: (folder / TRIALS[0] / name).read_bytes() for name in (RECORD, EVALUATION, METRICS, LOG)}

    status, said = head.submit("second", ask(place, "resumed", EPOCHS, "--resume"))
    assert status == 0, said
    assert "1 done before" in said
    assert {name: (folder / TRIALS[0] / name).read_bytes() for name in kept} == kept
    record = read_trial(folder, TRIALS[1])
    assert record is not None
    assert [attempt.state for attempt in record.attempts] == ["lost"]
    assert read_rows(folder) == read_rows(finished)
    assert read_results(folder) == read_results(finished)
    assert not (folder / STOP).exists()
