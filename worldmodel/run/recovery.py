"""How a run of several workers goes on after a loss, within Ray Train's controller.

Ray Train starts the workers again: after a notice, a lost machine, a killed process, and with more workers once there
are machines. It cannot know which errors are the run's own, and kills workers to resize them. `Recovery` tells it.
"""

from __future__ import annotations

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
"""Times that a run goes on although no checkpoint was saved since its workers' processes were lost before."""
SAVE_SECONDS = 60.0
"""Longest wait for workers to save themselves before their number changes."""
NODE_LOST = "node has died"
"""What Ray says of a worker whose machine is gone."""


@dataclass
class Recovery(ControllerCallback, WorkerGroupCallback):
    """Ray calls it in the controller's process."""

    run: str
    """URI of the run folder."""
    _is_working: bool = False
    _futile: int = 0
    _checkpoint: str | None = None

    def after_controller_start(self, train_run_context: Any) -> None:
        """Let an elastic run see machines as they are now."""
        ElasticScalingPolicy._get_reserved_resources = find_reserved  # type: ignore[method-assign]

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Workers train."""
        self._is_working = True

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """End the run, by raising, where what failed is the run itself, or its processes are lost again and again."""
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
        with suppress(StorageError, UserError):  # a store that does not answer now may later
            checkpoint = read_written(Location.of(self.run)).checkpoint
            self._futile = self._futile + 1 if checkpoint == self._checkpoint else 1
            self._checkpoint = checkpoint
        if self._futile > RETRIES:
            raise cause

    def before_controller_execute_resize_decision(self, resize_decision: Any) -> None:
        """Let workers save themselves before Ray ends them, to start another number."""
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
    """What an elastic run may use, by machine: Ray 2.60 looks every 20 s only, and counts machines that have a notice,
    on which it then cannot start anything."""
    import ray
    from ray._private.state import state

    answer = policy._autoscaling_coordinator.get_reserved_resources.remote(policy._requester_id, recompute=True)
    with suppress(ray.exceptions.RayError):
        draining = state.get_draining_nodes()
        return {node: held for node, held in ray.get(answer, timeout=5).items() if node not in draining}
    return None
