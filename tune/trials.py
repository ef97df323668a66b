"""Running a grid's trials on Ray Tune, each through Ray Train, on whatever Ray there is."""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any

from tune.results import read_trial
from tune.variants import Trial
from worldmodel.errors import UserError
from worldmodel.experiment.config_file import to_yaml
from worldmodel.object_store import StorageError
from worldmodel.ray_session import join_ray
from worldmodel.run.crew import share_environment
from worldmodel.run.record import make_command
from worldmodel.run.run_folder import check_same, read_config
from worldmodel.storage import Location

if TYPE_CHECKING:
    from tune.search import Search

SCRATCH = ".tune"
"""Folder of a grid's in which Ray Tune keeps its own state."""
DRIVER = {"memory": 1.0}
"""What a trial holds itself whose workers are processes of their own: a byte, for Ray refuses nothing at all. A part of
a CPU, however small, would keep the last worker of a full machine waiting for ever."""
LOOK_SECONDS = 0.2
"""Time between two looks whether a grid is over."""
WAITING = "ray tune"
"""Name of the thread that waits for Ray Tune."""
LOSSES = 20
"""Times that Ray Tune starts a trial again which was lost without a notice, most of all with its machine; those with a
notice do not count. `tune.trial.RETRIES` limits losses of the process alone."""
MACHINES = "WORLDMODEL_MACHINES"
"""Environment variable: what a cluster may start, as JSON, for one that starts from nothing has no CPU yet."""
SLACK = 1e-9
"""Ten tenths of a GPU are one."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What a Ray has in all, busy or not, with the machines that it may still start."""

    cpus: float
    gpus: float
    machines: int = 1
    cpus_each: float = 0.0
    """CPUs of its largest machine; 0: it has one machine."""

    @classmethod
    def find(cls) -> Cluster:
        """That of the Ray that was joined."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        promised = read_promised()
        present = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
        total = {name: max(present[name], sum(machine[name] for machine in promised)) for name in present}
        each = [node.get("CPU", 0.0) for node in nodes] + [machine["CPU"] for machine in promised]
        return cls(
            cpus=total["CPU"], gpus=total["GPU"], cpus_each=float(max(each, default=0.0)),
            machines=len(nodes) + (total != present),
        )  # fmt: skip


def read_promised() -> list[dict[str, float]]:
    """The machines that a cluster may start: the CPUs and GPUs of each. None where nothing says so: Ray does not.

    UserError where what says so cannot be understood.
    """
    text = os.environ.get(MACHINES) or "[]"
    try:
        kinds = [(int(kind["count"]), float(kind["CPU"]), float(kind["GPU"])) for kind in json.loads(text)]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f'{MACHINES}={text}: expected machines that may be started, as [{{"count": 2, "CPU": 96, "GPU": 8}}]'
        ) from error
    return [{"CPU": cpus, "GPU": gpus} for count, cpus, gpus in kinds for _ in range(count)]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial takes, and how many run at once."""

    cpus_per_worker: float
    gpus_per_worker: float
    workers: int
    at_once: int
    machine_cpus: float = 1.0
    """CPUs of the machine that a worker without a GPU holds a part of."""

    @property
    def share(self) -> float:
        """What a worker holds of a GPU, or else of a machine."""
        return self.gpus_per_worker or self.cpus_per_worker / self.machine_cpus

    @property
    def driver(self) -> dict[str, float]:
        """What Tune reserves for a trial: all of it where the trial trains in its own process."""
        if self.workers > 1:
            return dict(DRIVER)
        return {"CPU": self.cpus_per_worker, "GPU": self.gpus_per_worker}

    def describe(self, trials: int) -> str:
        """A line for people."""
        gpu = f", {self.gpus_per_worker:g} GPU" if self.gpus_per_worker else ""
        each = f"{self.workers} worker{'s' * (self.workers > 1)} of {self.cpus_per_worker:g} CPU{gpu}"
        return f"{trials} trial{'s' * (trials != 1)}, {min(trials, self.at_once)} at once, each {each}"


def plan_resources(cluster: Cluster, gpus_per_worker: float, workers: int) -> Resources:
    """What runs at once on a cluster, so that no two trials can wait for each other for ever.

    Every worker takes a CPU and its share of one GPU. UserError where a trial asks for more than there can ever be.
    """
    if workers < 1 or not 0 <= gpus_per_worker < math.inf:
        raise UserError(
            f"a trial of {workers} workers with {gpus_per_worker:g} GPUs each: expected at least 1 worker, and 0 or "
            "more GPUs"
        )
    if gpus_per_worker * workers > cluster.gpus:
        raise UserError(
            f"a trial asks for {gpus_per_worker * workers:g} GPUs ({workers} workers), the cluster has "
            f"{cluster.gpus:g} (and {cluster.cpus:g} CPUs): lower --gpus-per-trial or --workers-per-trial, or start "
            "machines with GPUs"
        )
    if workers > cluster.cpus:
        raise UserError(
            f"a trial asks for {workers} workers of a CPU each, the cluster has {cluster.cpus:g} CPUs: lower "
            "--workers-per-trial, or start machines with more"
        )
    _check_share(gpus_per_worker, workers)
    places = int(cluster.cpus)
    if gpus_per_worker:
        places = min(places, int(cluster.gpus) * int(1 / gpus_per_worker + SLACK))
    return Resources(
        cpus_per_worker=1, gpus_per_worker=gpus_per_worker, workers=workers, at_once=places // workers,
        machine_cpus=max(1.0, cluster.cpus_each or cluster.cpus),
    )  # fmt: skip


def _check_share(gpus: float, workers: int) -> None:
    if gpus > 1:
        raise UserError(f"a worker computes on one GPU, found {gpus:g}: for more, use --workers-per-trial")
    if workers > 1 and 0 < gpus < 1:
        raise UserError(
            f"{workers} workers of {gpus:g} GPU each: several workers take a whole GPU each; use --gpus-per-trial 1, "
            "or one worker per trial"
        )


def check_reach(cluster: Cluster, places: Sequence[str]) -> None:
    """UserError where a cluster of several machines is given a folder that only one of them has."""
    for place in places:
        if cluster.machines > 1 and Location.of(place).local_path() is not None:
            raise UserError(
                f"the cluster has {cluster.machines} machines and {place} is a folder of one of them: name a place "
                "that all reach, such as s3://BUCKET/FOLDER"
            )


@dataclass(frozen=True, kw_only=True)
class TrialRun:
    """How a grid's trials are run."""

    folder: Location
    """The grid's."""
    resources: Resources
    halving: bool = False
    """Whether ASHA ends the trials that promise least."""
    search: Search | None = None
    """Chooses trials while the grid runs; None: all are known."""
    is_over: Callable[[], bool] = lambda: False
    """Whether the grid was asked to stop and has: Ray is not waited for any longer."""


def run_trials(trials: Sequence[Trial], how: TrialRun) -> dict[str, str]:
    """Run trials to their ends; each fails alone. What they find stands in their run folders.

    Returns the names of those that failed, with what ended them.
    """
    if not trials and not how.search:
        return {}
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the newer output prints a banner on stdout, however quiet it is to be
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # the grid's own watch lets the trials save themselves
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # a trial that failed has no value
    join_ray()
    from ray import tune

    from tune.trial import ERROR, GridTrial

    _keep_credentials_out_of_logs()
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it repeats every failure, which the table names
    place, environment = how.folder / SCRATCH, share_environment()
    name_trial = _make_namer(how.search)
    tuner = tune.Tuner(
        GridTrial,
        param_space={"trial": _list_settings(trials, how, environment)},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=how.resources.at_once, reuse_actors=True, scheduler=_make_scheduler(trials, how),
            trial_name_creator=name_trial, trial_dirname_creator=name_trial, **_find_points(trials, how),
        ),
        run_config=tune.RunConfig(
            name=f"{how.folder.name}-{uuid.uuid4().hex[:8]}", storage_path=place.path,
            storage_filesystem=place.filesystem, verbose=0, failure_config=tune.FailureConfig(max_failures=LOSSES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )  # fmt: skip
    try:
        ends = _fit(tuner, how.is_over)
    finally:
        with suppress(StorageError):
            place.delete()
    found = {PurePosixPath(end.path).name: _explain_end(end.error, (end.metrics or {}).get(ERROR, "")) for end in ends}
    return {name: text for name, text in found.items() if text}


def _list_settings(trials: Sequence[Trial], how: TrialRun, environment: Any) -> Any:
    """What each trial is told; where a search chooses, what all of them are told."""
    from ray import tune

    if how.search:
        return {**_describe(how.search.base, how), "environment": environment}
    return tune.grid_search([{**_describe(trial, how), "environment": environment} for trial in trials])


def _find_points(trials: Sequence[Trial], how: TrialRun) -> dict[str, Any]:
    """Options of Ray Tune's by which a search chooses what is still to be trained."""
    if not how.search:
        return {}
    from tune.search import make_searcher

    new = how.search.count - len(how.search.trials)
    return {"search_alg": make_searcher(how.search, how.folder, trials), "num_samples": new + len(trials)}


def _keep_credentials_out_of_logs() -> None:
    """Ray Tune would pass AWS keys on as a runtime environment, which Ray writes into its logs; a trial gets them from
    `share_environment`."""
    with suppress(ImportError, AttributeError):  # Ray's own, which it does not promise; `tests/security` looks
        from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE

        ENV_VARS_TO_PROPAGATE.difference_update([name for name in ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")])


def _fit(tuner: Any, is_over: Callable[[], bool]) -> list[Any]:
    """What each trial ended with; nothing where it is over before Ray says so. In a thread: Ray may never return."""
    found: Queue[Any] = Queue()

    def fit() -> None:
        try:
            found.put(list(tuner.fit()))
        except BaseException as error:  # noqa: BLE001  (raised by the thread that waits)
            found.put(error)

    threading.Thread(target=fit, name=WAITING, daemon=True).start()
    while not is_over():
        with suppress(Empty):
            ends = found.get(timeout=LOOK_SECONDS)
            if isinstance(ends, BaseException):
                raise ends
            return list(ends)
    return []


def _describe(trial: Trial, how: TrialRun) -> dict[str, Any]:
    """What a trial is told: plain values, which Ray writes down."""
    return {
        "config": to_yaml(trial.config), "grid": how.folder.name, "workers": how.resources.workers,
        "share": how.resources.share,
        "holds": how.resources.driver, "shows_epochs": how.halving,
        "command": make_command(), "since": time.time(), "origins": dict(trial.origins), "axes": dict(trial.axes),
    }  # fmt: skip


def _make_scheduler(trials: Sequence[Trial], how: TrialRun) -> Any:
    if not how.halving:
        return None
    from tune.halving import HalvingByHorizon

    training = (how.search.base if how.search else trials[0]).config.training
    return HalvingByHorizon(training.best_mode, training.num_epochs)


def _explain_end(error: BaseException | None, said: str) -> str:
    from tune.trial import explain

    return said or (f"it was lost {LOSSES + 1} times: {explain(error)}" if error else "")


def _make_namer(search: Search | None) -> Callable[[Any], str]:
    """Names Ray Tune's trials; a search hears of each. A closure, because Ray Tune copies other callables."""
    from tune.trial import POINT, config_of

    def name_trial(trial: Any) -> str:
        return search.add(trial.config[POINT]).name if search else str(config_of(trial.config).name)

    return name_trial


def is_done(folder: Location, trial: Trial, *, halving: bool = False) -> bool:
    """Whether a trial has been trained to its end, as it is asked for now, and evaluated.

    `halving`: the end that a scheduler chose is one too.

    UserError where the run folder holds another experiment under the trial's name.
    """
    found, location = read_trial(folder, trial), folder / trial.name
    if found.record is None:
        return False
    check_same(location, found.record, trial.config, "")
    older, newer = read_config(location).training, trial.config.training
    is_same_length = (older.num_epochs, older.max_steps) == (newer.num_epochs, newer.max_steps)
    is_ended = found.is_finished or (halving and found.is_stopped_early)
    return is_ended and is_same_length and found.record.blocks == trial.config.data.dataset_dir
