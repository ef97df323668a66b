"""One trial as Ray Tune sees it: an actor that trains a run, shows its epochs, and evaluates it at the end.

What is true of a trial stands in its run folder. An error is a result here, not an exception, so that Ray tries again
only what its process did not survive.
"""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from tune.axes import round_value
from tune.variants import place_config
from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import read_experiment
from worldmodel.machine.mps import use_mps
from worldmodel.machine.process import release_memory
from worldmodel.object_store import MissingError, StorageError
from worldmodel.run.lock import LOCK
from worldmodel.run.pause import find_notice, is_pause
from worldmodel.run.record import Attempt, RunRecord, State
from worldmodel.run.run import RECORD, Run
from worldmodel.run.run_folder import LIVE, LOST_SECONDS, read_record, read_written, request_stop
from worldmodel.run.stop_request import STOP, read_stop
from worldmodel.run.worker_loss import find_cause
from worldmodel.storage import Location

if TYPE_CHECKING:
    from worldmodel.rollout.evaluation import Evaluation

POINT = "point"
"""Key of a trial's settings that a search has chosen."""
ERROR, EPOCH, VALUE = "error", "epoch", "value"
"""Keys of what a trial reports: what ended it, or the epochs that it has done and its `training.best_metric` then."""
LOOK_SECONDS = 1.0
"""Time between two looks for a new epoch."""
RETRIES = 2
"""Times that a trial goes on from its checkpoint after its process was lost on a machine that is still there."""
EARLY = "stopped early: other trials of the grid promise more"


class GridTrial(tune.Trainable):
    """Trains one trial in a thread; `step` returns at each new epoch where a scheduler wants them, else at the end."""

    def __repr__(self) -> str:
        return f"trials of {self._settings['grid']}"  # one process serves several

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """What Tune reserves for a trial."""
        return tune.PlacementGroupFactory([config["trial"]["holds"]])

    def setup(self, config: dict[str, Any]) -> None:
        """Take on a trial."""
        self._settings = config["trial"]
        os.environ.update(ray.get(self._settings["environment"]))  # this process is the cluster's, not the driver's
        use_mps(self._settings["share"])
        os.environ["WORLDMODEL_COMMAND"] = self._settings["command"]  # this process's own starts nothing
        self._config, chosen = config_of(config), config.get(POINT, {})
        if chosen:
            axes = {key: round_value(value) for key, value in chosen.items()}
            origins = {**self._settings["origins"], **dict.fromkeys(axes, "--sample")}
            self._settings = {**self._settings, "axes": axes, "origins": origins}
        self._location = Location.of(self._config.save_dir) / self._config.name
        self._thread: threading.Thread | None = None
        self._error, self._must_leave = "", False
        self._epochs = 0

    def step(self) -> dict[str, Any]:
        """Train on until there is something to report."""
        _name_process(self._config.name)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._config.name, daemon=True)
            self._thread.start()
        while self._thread.is_alive():
            self._thread.join(LOOK_SECONDS)
            found = self._look() if self._settings["shows_epochs"] and self._thread.is_alive() else None
            if found:
                return found
        if self._must_leave:  # its machine goes away: Ray Tune starts it elsewhere, and does not count this
            os._exit(0)
        return {"done": True, ERROR: self._error, **self._read_value()}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The same process for the next trial: imports cost seconds."""
        self.cleanup()
        release_memory()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """End what a scheduler has given up: its checkpoint and its evaluation stay, marked as ended early."""
        if self._thread is None or not self._thread.is_alive():
            return
        with suppress(UserError, MissingError):  # it may have ended just now
            request_stop(self._location, EARLY)
        self._thread.join()

    def _work(self) -> None:
        try:
            self._must_leave = not train_and_evaluate(self._config, self._settings)
        except BaseException as error:  # noqa: BLE001  (the trial's edge: told to the grid, which records it)
            self._error = explain(error)

    def _read_value(self) -> dict[str, float]:
        """What a search learns from its end."""
        with suppress(MissingError, UserError):
            value = read_record(self._location).metrics.get(self._config.training.best_metric)
            return {} if value is None else {VALUE: value}
        return {}

    def _look(self) -> dict[str, Any] | None:
        """What the run shows of an epoch that has not been reported yet."""
        try:
            record = read_record(self._location)
        except (MissingError, UserError):  # not begun, or being written
            return None
        value = record.metrics.get(self._config.training.best_metric)
        if record.state not in LIVE or record.epoch <= self._epochs or value is None:
            return None
        self._epochs = record.epoch
        return {EPOCH: record.epoch, VALUE: value, ERROR: ""}


def config_of(settings: dict[str, Any]) -> ExperimentConfig:
    """The experiment of a trial, from what Ray Tune hands it."""
    config = read_experiment(settings["trial"]["config"], source="trial")
    if POINT not in settings:
        return config
    return place_config(config, {key: round_value(value) for key, value in settings[POINT].items()})


def train_and_evaluate(config: ExperimentConfig, settings: dict[str, Any]) -> bool:
    """Train a trial (or go on with it), then evaluate its last checkpoint beside the baselines.

    False: it has saved itself and must go on elsewhere, because its machine is about to be taken away.
    """
    from tune.results import TRIAL_EVALUATION
    from worldmodel.run.train import TrainRequest, train

    folder = Location.of(config.save_dir)
    location = folder / config.name
    if (folder / STOP).exists():
        raise UserError("not begun: the grid was asked to stop")
    has_begun = wait_for_end(location)
    if has_begun:
        check_losses(read_record(location), settings["since"])
    request = TrainRequest(
        config=config, workers=settings["workers"], resume=has_begun, share=settings["share"],
        origins=settings.get("origins", {}), axes=settings.get("axes", {}),
    )  # fmt: skip
    record = train(request, report=lambda line: None)
    if record.state is State.STOPPED and EARLY in record.reason:
        mark_early(location)
    elif record.state is State.STOPPED:
        return not is_pause(record.reason)
    found = evaluate_trial(folder, location)
    if found is None:
        return False
    (location / TRIAL_EVALUATION).write_text(json.dumps(asdict(found), indent=1))
    return True


def list_hosts() -> set[str]:
    """Names of the machines that Ray has now."""
    return {node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}


def free_lost(location: Location) -> None:
    """Write that a run is lost whose machine Ray has lost, and take its lock away, by which it would hear of that."""
    record = read_written(location)
    if record.state in LIVE and record.hosts[0] not in list_hosts():
        run = Run(location, record)
        run.update(state=State.LOST, reason=f"lost {record.hosts[0]}, as Ray says", ended=record.heartbeat)
        run.write()
        (location / LOCK).delete()


def check_losses(record: RunRecord, since: float) -> None:
    """UserError where a trial's process was lost too often since then (seconds since 1970), machines apart."""
    alive = list_hosts()
    last = Attempt(state=record.state, host=record.hosts[0], ended=record.ended or record.heartbeat, step=record.step)
    ends = [(end.state, end.host in alive) for end in (*record.attempts, last) if end.ended.timestamp() >= since]
    lost = sum(state in (State.LOST, State.FAILED) and is_there for state, is_there in ends)
    if lost > RETRIES:
        raise UserError(f"its process was lost {lost} times: {record.reason}")


def evaluate_trial(folder: Location, location: Location) -> Evaluation | None:
    """Evaluate a trial's last checkpoint; None if its machine is about to be taken away.

    Raises:
        UserError: the grid was asked to stop.
    """
    import torch

    from worldmodel.rollout.evaluation import evaluate
    from worldmodel.training.checkpoint_list import find_checkpoint
    from worldmodel.training.meeting import Meeting, StopRequest
    from worldmodel.training.workers import Workers

    def find_reason() -> str | None:
        with suppress(StorageError):
            return find_notice() or read_stop(folder)
        return None

    watch = Meeting(Workers(device=torch.device("cpu")), find_reason)
    try:
        return evaluate(location, find_checkpoint(location, "newest"), tell=watch.tell)
    except StopRequest as stop:
        if is_pause(str(stop)):
            return None
        raise UserError(str(stop)) from None


def wait_for_end(location: Location) -> bool:
    """Whether there is a run, whose process is gone: where Ray does not know its machine, that takes minutes."""
    if not (location / RECORD).exists():
        return False
    free_lost(location)
    waited = 0.0
    while read_record(location).state in LIVE and waited < LOST_SECONDS:
        time.sleep(LOOK_SECONDS)
        waited += LOOK_SECONDS
    return True


def mark_early(location: Location) -> None:
    """Set the run apart: its numbers are of fewer steps than the others'."""
    run = Run(location, read_record(location))
    run.update(early_stopped=True)
    run.write()


def explain(error: BaseException) -> str:
    """An error in a line."""
    cause = find_cause(getattr(error, "cause", None) or error)
    text = str(cause).strip()
    return text if isinstance(cause, UserError) else f"{type(cause).__name__}: {text.splitlines()[-1] if text else ''}"


def _name_process(name: str) -> None:
    """The trial's name in `ps`, `top` and the dashboard's list of workers, until the actor's next call."""
    with suppress(ImportError, AttributeError):  # Ray's own, which it does not promise
        from ray._raylet import setproctitle  # type: ignore[attr-defined]

        setproctitle(f"ray::{name}")
