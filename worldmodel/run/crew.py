"""A run's workers, through Ray Train: in this process for one, a process each for several.

For several, this process shows what the first worker says, hands on requests to stop, and writes the record of a run
whose own process could not.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from worldmodel.errors import UserError
from worldmodel.object_store import StorageError
from worldmodel.ray_session import join_ray
from worldmodel.run.head_watch import HeadWatch
from worldmodel.run.pause import find_notice, is_pause
from worldmodel.run.record import State
from worldmodel.run.run import LAST_LINES, Run
from worldmodel.run.run_folder import read_written
from worldmodel.run.stop_request import STOP, describe_signal, hear_signals
from worldmodel.run.worker_loss import Silence, WorkerLostError, close_record, find_cause, read_number
from worldmodel.storage import Location

RESIZE = "WORLDMODEL_RESIZE_SECONDS"
"""Environment variable: seconds between two looks for machines with which a run could have more workers."""
RESIZE_SECONDS = 60.0
LOOK_SECONDS = 0.2
"""Time between two looks at what the first worker says."""
LINES, ENVIRONMENT = "lines", "environment"
"""Settings under which a worker finds where its lines go, and what it needs of the driver's environment."""
PASSED = ("AWS_", "AZURE_", "GOOGLE_", "WANDB_", "WORLDMODEL_")
"""How the names of environment variables begin that the workers need: credentials, endpoints, folders."""

WorkerLoop = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Crew:
    """Which workers run."""

    run: Location
    """The run folder."""
    workers: int
    least: int
    """With how few it may go on; as many as `workers`: it waits for all."""
    uses_gpu: bool
    """Whether each holds a GPU."""
    token: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    """Makes Ray's name of the run unique: under one that was used before it would silently continue its own state."""

    @property
    def count(self) -> int | tuple[int, int]:
        """Workers, as Ray Train takes them: none are processes of their own where one does all."""
        if self.workers == 1:
            return 0
        return self.workers if self.least == self.workers else (self.least, self.workers)

    @property
    def scratch(self) -> Location:
        """Where Ray Train keeps its own state while the workers run; ours lies in the run folder."""
        return self.run.parent / ".ray" / f"{self.run.name}-{self.token}"


class LineStream(io.TextIOBase):
    """A text stream whose other end is the process that started the workers. Writing never waits and never fails."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def write(self, text: str) -> int:
        """Sends a text."""
        self._queue.actor.put_nowait.remote(text)
        return len(text)


def attach(settings: dict[str, Any]) -> tuple[dict[str, Any], LineStream | None]:
    """In a worker: the settings that were given to `work`, and where its lines go (None: its own stdout)."""
    rest = {name: value for name, value in settings.items() if name not in (LINES, ENVIRONMENT)}
    if LINES not in settings:
        return rest, None
    import ray

    os.environ.update(ray.get(settings[ENVIRONMENT]))
    return rest, LineStream(settings[LINES])


def share_environment() -> Any:
    """What workers need of this process's environment, as a reference of Ray's: settings are shown on the dashboard."""
    import ray

    return ray.put({name: value for name, value in os.environ.items() if name.startswith(PASSED)})


def work(loop: WorkerLoop, settings: dict[str, Any], crew: Crew) -> None:
    """Run `loop` with `settings` in every worker; raises what fails there, after the run's record says so."""
    shown: deque[str] = deque(maxlen=LAST_LINES)
    try:
        if crew.workers > 1:
            join_ray(max(crew.workers, len(os.sched_getaffinity(0))))
            check_room(crew)
            _work_apart(loop, settings, crew, shown)
            settle(crew.run)
        else:
            _make_trainer(loop, settings, crew).fit()
    except BaseException as error:  # noqa: BLE001  (the edge between this process and the workers: recorded, raised)
        close_record(crew.run, error, shown)
        raise find_cause(error) from None


def settle(location: Location) -> None:
    """Mark a paused run as stopped: no workers will be restarted, as the driver itself is being preempted."""
    record = read_written(location)
    if record.state is State.CREATED and is_pause(record.reason):
        run = Run(location, record)
        run.update(state=State.STOPPED)
        run.write()


def check_room(crew: Crew) -> None:
    """UserError where a Ray that cannot grow has too little for the workers, which would wait for ever."""
    import ray

    kind = "GPU" if crew.uses_gpu else "CPU"
    found = int(ray.cluster_resources().get(kind, 0))
    if found < crew.least and not os.environ.get("RAY_ADDRESS"):
        raise UserError(f"{crew.least} workers take a {kind} each, found {found} on this machine: use fewer workers")


def _make_trainer(loop: WorkerLoop, settings: dict[str, Any], crew: Crew) -> Any:
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    import ray.train

    logging.getLogger("ray.train").setLevel(logging.WARNING)  # it remarks on every worker that is this process
    from ray.train.torch import TorchTrainer

    from worldmodel.run.recovery import Recovery

    return TorchTrainer(
        loop,
        train_loop_config=settings,
        scaling_config=ray.train.ScalingConfig(
            num_workers=crew.count,
            use_gpu=crew.uses_gpu,
            elastic_resize_monitor_interval_s=read_number(RESIZE, RESIZE_SECONDS),
        ),
        run_config=ray.train.RunConfig(
            name=crew.scratch.name,
            storage_path=crew.scratch.parent.path,
            storage_filesystem=crew.scratch.filesystem,
            failure_config=ray.train.FailureConfig(max_failures=-1, max_preemption_failures=-1),
            callbacks=[Recovery(run=str(crew.run))] if crew.workers > 1 else None,
        ),
    )


def _work_apart(loop: WorkerLoop, settings: dict[str, Any], crew: Crew, shown: deque[str]) -> None:
    """Ray's own waiting would hear no SIGTERM, so it happens in a thread. `shown` takes the lines that were shown."""
    import ray
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    lines, head = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here}), HeadWatch.join()
    trainer = _make_trainer(loop, {**settings, LINES: lines, ENVIRONMENT: share_environment()}, crew)
    failures: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # noqa: BLE001  (raised by the thread that waits)
            failures.append(error)

    signals: list[int] = []
    restore = hear_signals(signals.append)
    thread = threading.Thread(target=fit, name="ray train", daemon=True)
    thread.start()
    try:
        _watch(thread, lambda: _show(lines, shown), signals, crew.run, head)
    except (KeyboardInterrupt, SystemExit, WorkerLostError):
        ray.shutdown()  # the workers must not write "running" after us
        raise
    finally:
        restore()
        with suppress(StorageError):
            crew.scratch.delete()
    _show(lines, shown)
    if failures:
        head.judge(crew.run)
    lines.shutdown(force=True)
    if failures:
        raise failures[0]


def _watch(
    thread: threading.Thread, show: Callable[[], bool], signals: list[int], run: Location, head: HeadWatch
) -> None:
    """Until the thread ends: show lines, and make the first signal a stop file, which the first worker looks for.

    WorkerLostError where no worker gives a sign of life for long: Ray waits for machines for ever. HeadLostError where
    Ray's head is gone.
    """
    is_told, silence = False, Silence()
    while thread.is_alive():
        thread.join(LOOK_SECONDS)
        reason = describe_signal(signals[0]) if signals else find_notice()
        if reason and not is_told:
            is_told = True
            (run / STOP).write_text(f"{reason}\n")
        if not show():
            head.judge(run)
        silence.look(run)
        head.look(run)


def _show(lines: Any, shown: deque[str]) -> bool:
    """Show what the first worker has said since. False: Ray does not hand it on, and the run's log has it alone."""
    from ray.exceptions import RayError

    try:
        text = "".join(lines.get_nowait_batch(lines.qsize()))
    except RayError:
        return False
    shown.extend(text.splitlines())
    with suppress(OSError):  # nobody reads it any more
        sys.stdout.write(text)
        sys.stdout.flush()
    return True
