"""What Ray Train's controller is told: which losses a run survives, and which errors are its own."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.machine.notice import FILE
from worldmodel.run.crew import settle
from worldmodel.run.interruption import describe_interruption, find_interruption
from worldmodel.run.pause import NOTICE, RESIZE
from worldmodel.run.record import RunRecord, State
from worldmodel.run.recovery import RETRIES, Recovery
from worldmodel.run.run import Run
from worldmodel.run.run_folder import read_written, start_run
from worldmodel.run.worker_loss import WorkerLostError, find_cause
from worldmodel.storage import Location
from worldmodel.training.nonfinite import NonFiniteError

CHANNEL = RuntimeError("gloo: Connection closed by peer")


class ActorDiedError(Exception):
    """Named as Ray names a worker whose process is gone."""


@pytest.fixture
def run(tmp_path: Any) -> Run:
    """A run that trains."""
    found = start_run(Location.of(tmp_path), ExperimentConfig(name="run"), total_steps=100, world_size=3)
    found.note_step(10, checkpoint="checkpoints/step-00000008")
    found.write()
    return found


def fail(recovery: Recovery, errors: dict[int, Exception], *, is_preempted: bool = False) -> None:
    """Workers have begun, and end."""
    recovery.after_worker_group_start(None)
    status = SimpleNamespace(
        errors=errors, has_preempted_worker=lambda: is_preempted,
        get_worker_group_error=lambda: WorkerGroupError("failed", errors),
    )  # fmt: skip
    for _ in range(3):  # Ray asks several times for each end
        recovery.after_worker_group_poll_status(status)


@pytest.mark.parametrize("error", [NonFiniteError("step 7"), UserError("no"), ValueError("a bug")])
def test_a_runs_own_error_ends_it_at_once(run: Run, error: Exception) -> None:
    with pytest.raises(type(error)):
        fail(Recovery(run=str(run.location)), {0: error, 1: CHANNEL})


def test_what_ended_it_comes_out_of_rays_own_error() -> None:
    assert isinstance(find_cause(ControllerError(NonFiniteError("step 7"))), NonFiniteError)


def test_processes_lost_without_a_new_checkpoint_end_it(run: Run) -> None:
    recovery = Recovery(run=str(run.location))
    for _ in range(RETRIES):
        fail(recovery, {0: CHANNEL, 1: ActorDiedError("killed")})
    with pytest.raises(WorkerLostError, match="worker 1 is gone"):
        fail(recovery, {0: CHANNEL, 1: ActorDiedError("killed")})


def test_a_run_that_saves_goes_on_after_any_number_of_losses(run: Run) -> None:
    recovery = Recovery(run=str(run.location))
    for step in range(20):
        run.update(checkpoint=f"checkpoints/step-{step:08d}")
        run.write()
        fail(recovery, {1: ActorDiedError("killed")})


@pytest.mark.parametrize("is_preempted", [True, False])
def test_machines_that_are_lost_do_not_count(run: Run, is_preempted: bool) -> None:
    said = "the actor is dead because its node has died" if not is_preempted else "gone"
    for _ in range(10):
        fail(Recovery(run=str(run.location)), {2: ActorDiedError(said)}, is_preempted=is_preempted)


def test_workers_save_before_their_number_changes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    recovery, place = Recovery(run=str(run.location)), run.location
    waits: list[str] = []

    def wait(seconds: float) -> None:
        waits.append((place / "STOP").read_text())
        run.update(state=State.CREATED, reason=waits[-1].strip(), ended=datetime.now(UTC))
        run.write()

    monkeypatch.setattr("worldmodel.run.recovery.time.sleep", wait)
    decision = SimpleNamespace(num_workers=3)
    recovery.before_controller_execute_resize_decision(decision)  # the first start
    assert waits == []
    recovery.after_worker_group_start(None)
    recovery.before_controller_execute_resize_decision(decision)
    assert waits == [f"{RESIZE} to 3\n"]
    assert not (place / "STOP").exists()


@pytest.mark.parametrize("reason", [f"{NOTICE}: spot", f"{RESIZE} to 3"])
def test_a_pause_is_no_end_where_ray_goes_on(run: Run, reason: str) -> None:
    for may_go_on, state in ((True, State.CREATED), (False, State.STOPPED)):
        run.may_go_on = may_go_on
        with run.recording():
            run.pause(reason)
        record = read_written(run.location)
        assert (record.state, record.reason) == (state, reason)


def test_a_run_whose_driver_is_preempted_has_stopped(run: Run) -> None:
    run.may_go_on = True
    with run.recording():
        run.pause(f"{NOTICE}: spot")
    settle(run.location)
    assert read_written(run.location).state is State.STOPPED


def test_a_notice_stops_a_run_of_one_worker(run: Run, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FILE, str(tmp_path / "notice.json"))
    with run.recording():
        (tmp_path / "notice.json").write_text('{"reason": "spot", "deadline": 1}')
        until = time.monotonic() + 5
        while not run.should_stop() and time.monotonic() < until:
            time.sleep(0.05)
    record = read_written(run.location)
    assert (record.state, record.reason) == (State.STOPPED, f"{NOTICE}: spot")


def test_the_loss_of_another_worker_is_no_end_where_ray_goes_on(run: Run) -> None:
    run.may_go_on = True
    for error, state in ((CHANNEL, State.CREATED), (NonFiniteError("7"), State.FAILED)):
        with pytest.raises(type(error)), run.recording():
            raise error
        assert read_written(run.location).state is state


@pytest.mark.parametrize(
    ("alive", "said", "reason"),
    [
        (["a", "b"], "", "lost c"), (["a", "b", "c"], "", "the process of a worker was lost"),
        (["a", "b", "c"], f"{NOTICE}: that of worker 2", f"{NOTICE}: that of worker 2"),
    ],
)  # fmt: skip
def test_an_interruption_says_why_and_at_what_cost(
    alive: list[str], said: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [{"NodeManagerHostname": name, "Alive": name in alive} for name in "abc"]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    older = RunRecord(name="run", hosts=["a", "b", "c"], reason=said, step=12)
    older.updated = datetime.now(UTC) - timedelta(seconds=20)
    found = find_interruption(older, step=8, workers=2)
    assert (found.reason, found.step, found.resumed_step, found.workers) == (reason, 12, 8, 2)
    assert 20 <= found.seconds < 25
    lost = "4 steps lost" if said else "at least 4 steps lost"
    assert f"after 20 s with 2 workers, from step 8 ({lost}): {reason}" in describe_interruption(found)
