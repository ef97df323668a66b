"""Callback in Ray Train's controller that decides which failures a run with several workers survives.

Ray Train restarts the workers after a preemption notice, a lost machine or a killed process, and when it can add
workers. It cannot tell errors of the run itself from lost workers, and it kills workers before a resize. `Recovery`
raises the former and requests a checkpoint before the latter.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.scaling_policy.elastic import ElasticScalingPolicy

from worldmodel.errors import UserError
from worldmodel.object_store import StorageError
from worldmodel.run.pause import RESIZE, is_consequence, is_pause
from worldmodel.run.record import State
from worldmodel.run.run_folder import read_written
from worldmodel.run.stop_request import STOP
from worldmodel.run.worker_loss import WorkerLostError, find_cause
from worldmodel.storage import Location

RETRIES = 2
"""Restarts allowed without a new checkpoint since the last lost process."""
SAVE_SECONDS = 60.0
"""Longest wait for a checkpoint before a resize, in seconds."""
NODE_LOST = "node has died"
"""Part of Ray's message for a worker on a lost machine."""


@dataclass
class Recovery(ControllerCallback, WorkerGroupCallback):
    """Hooks that Ray calls in the controller's process."""

    run: str
    """URI of the run folder."""
    _is_working: bool = False
    _futile: int = 0
    _checkpoint: str | None = None

    def after_controller_start(self, train_run_context: Any) -> None:
        """Make elastic runs use the current list of machines, and give up on hung workers sooner."""
        os.environ.setdefault("TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", "5")  # Ray's 30 s would be waited for each time
        ElasticScalingPolicy._get_reserved_resources = find_reserved  # type: ignore[method-assign]

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Note that workers have started."""
        self._is_working = True

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """Raise the run's own error, or a loss that repeats without progress; either ends the run."""
        errors = worker_group_status.errors
        if not errors:
            return
        cause = find_cause(worker_group_status.get_worker_group_error())
        if not isinstance(cause, WorkerLostError) and not is_consequence(cause):
            raise cause
        if self._is_working and not worker_group_status.has_preempted_worker() and NODE_LOST not in str(errors):
            self._count(cause)
        self._is_working = False

    def _count(self, cause: BaseException) -> None:
        with suppress(StorageError, UserError):  # the store may answer at the next failure
            checkpoint = read_written(Location.of(self.run)).checkpoint
            self._futile = self._futile + 1 if checkpoint == self._checkpoint else 1
            self._checkpoint = checkpoint
        if self._futile > RETRIES:
            raise cause

    def before_controller_execute_resize_decision(self, resize_decision: Any) -> None:
        """Request a checkpoint before Ray kills the workers to change their number."""
        if not self._is_working:
            return
        self._is_working = False
        folder = Location.of(self.run)
        with suppress(StorageError, UserError):
            (folder / STOP).write_text(f"{RESIZE} to {resize_decision.num_workers}\n")
            until = time.monotonic() + SAVE_SECONDS
            while time.monotonic() < until and not _has_paused(folder):
                time.sleep(0.5)
            (folder / STOP).delete()


def _has_paused(folder: Location) -> bool:
    record = read_written(folder)
    return record.state is not State.RUNNING and (is_pause(record.reason) or bool(record.ended))


def find_reserved(policy: Any) -> Any:
    """Resources for an elastic run, by machine.

    Replaces Ray 2.60's method, whose answer is up to 20 s old and includes draining machines, on which nothing starts.
    """
    import ray
    from ray._private.state import state

    answer = policy._autoscaling_coordinator.get_reserved_resources.remote(policy._requester_id, recompute=True)
    with suppress(ray.exceptions.RayError):
        draining = state.get_draining_nodes()
        return {node: held for node, held in ray.get(answer, timeout=5).items() if node not in draining}
    return None
