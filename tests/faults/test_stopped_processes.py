"""Processes that are there and do nothing, as on a machine that has hung: noticed by time, and named."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.cli.test_workers import find_workers
from tests.faults.conftest import Tell
from tests.faults.small_runs import act_before, are_same, ask, train, write_experiment
from tests.training.interruptions import fork_one
from worldmodel.cli.main import main
from worldmodel.run import run_folder
from worldmodel.run.certificate import certify
from worldmodel.run.record import RunRecord, State
from worldmodel.run.run import FLUSH_SECONDS, STALLED
from worldmodel.run.run_folder import read_record, read_written
from worldmodel.storage import Location

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
STALL_SECONDS = 6.0
EPOCHS = 30
"""So many that a worker can be stopped well before the last."""
GOES_ON_SECONDS = 75
"""Ray Train asks a worker for 45 s before it gives it up."""
MAY = f"(WORLDMODEL_STALL_MINUTES={STALL_SECONDS / 60:g})"


@pytest.fixture(scope="module")
def own_ray() -> Iterator[None]:
    """A Ray of these tests."""
    yield
    import ray

    ray.shutdown()


@pytest.fixture
def undisturbed(tmp_path: Path, blocks: Path) -> Location:
    """A run of two epochs with nothing in its way."""
    assert main(ask(write_experiment(tmp_path, "run"), blocks, str(tmp_path / "undisturbed"))) == 0
    return Location.of(tmp_path / "undisturbed/run")


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("own_ray")
@pytest.mark.parametrize("rank", [1, 0])
def test_a_run_of_two_of_which_one_is_stopped_goes_on_by_itself(
    blocks: Path, tmp_path: Path, tell: Tell, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    """The second is missed by the first, which waits for its gradients and ends itself; the first by Ray Train, whose
    questions it does not answer."""
    monkeypatch.setenv("WORLDMODEL_STALL_MINUTES", str(STALL_SECONDS / 60))
    stopped: list[int] = []

    def stop(record: RunRecord) -> None:
        time.sleep(FLUSH_SECONDS + 1)  # so that its record says that it trains
        stopped.append(record.pid if rank == 0 else next(pid for pid in find_workers() if pid != record.pid))
        os.kill(stopped[0], signal.SIGSTOP)

    asked = ask(write_experiment(tmp_path, "run", num_epochs=EPOCHS), blocks, str(tmp_path / "runs"))
    try:
        found = train([*asked, "--workers", "2"], str(tmp_path / "runs/run"), stop, step=30)
    finally:
        for pid in stopped:
            if psutil.pid_exists(pid):
                os.kill(pid, signal.SIGKILL)
    assert found.status == 0
    record = found.record
    assert record.state is State.FINISHED
    assert len(record.interruptions) == 1
    interruption = record.interruptions[0]
    assert interruption.seconds < GOES_ON_SECONDS
    fault = f"worker {rank} of 2 is stopped (SIGSTOP){f' {MAY}' if rank else ''}"
    tell(fault, "resumed automatically", interruption.seconds, "steps since the last epoch", interruption.reason)


def begin(asked: list[str], monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> int:
    """A training in a process of its own that does something before its thirtieth step; returns its number."""

    def work() -> None:
        act_before(monkeypatch, {30: act})
        os._exit(main(asked))

    return fork_one(work)


def wait_for_end(pid: int) -> int:
    """A child's exit status."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def hang_for_ever() -> None:
    time.sleep(600)


def stop_soon() -> None:
    time.sleep(FLUSH_SECONDS + 1)  # so that its record says that it trains
    os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.xdist_group("disk")
def test_a_step_that_never_ends_ends_the_run_and_it_goes_on(
    blocks: Path, tmp_path: Path, tell: Tell, undisturbed: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLDMODEL_STALL_MINUTES", str(STALL_SECONDS / 60))
    asked = ask(write_experiment(tmp_path, "run"), blocks, str(tmp_path / "runs"))
    began = time.monotonic()
    assert wait_for_end(begin(asked, monkeypatch, hang_for_ever)) == STALLED
    seconds = time.monotonic() - began
    record = read_written(Location.of(tmp_path / "runs/run"))
    assert record.state is State.FAILED and "no progress for" in record.reason
    assert "hang_for_ever" in record.traceback
    assert main([*asked, "--resume"]) == 0
    assert are_same(Location.of(tmp_path / "runs/run"), undisturbed)
    tell(f"a step that never ends {MAY}", "ended", seconds, "steps since the last epoch", record.reason)


@pytest.mark.xdist_group("disk")
def test_a_stopped_run_is_not_called_running_and_goes_on_when_it_is_woken(
    blocks: Path, tmp_path: Path, tell: Tell, undisturbed: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Location.of(tmp_path / "runs/run")
    asked = ask(write_experiment(tmp_path, "run"), blocks, str(tmp_path / "runs"))
    pid = begin(asked, monkeypatch, stop_soon)
    monkeypatch.setattr(run_folder, "LOST_SECONDS", 6.0)  # two minutes, which the test does not wait
    until = time.monotonic() + 60
    while psutil.Process(pid).status() != psutil.STATUS_STOPPED and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(7)
    assert certify(run).state is State.LOST
    assert "no sign of life" in read_written(run).reason
    os.kill(pid, signal.SIGCONT)
    assert wait_for_end(pid) == 0
    assert read_record(run).state is State.FINISHED
    assert are_same(run, undisturbed)
    tell("the only worker is stopped (SIGSTOP), and woken", "survived; called lost meanwhile", None, "nothing", "")
