"""Running a grid's trials on Ray Tune, each through Ray Train, on whatever Ray there is."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from tune.grid import Trial
from tune.results import read_trial
from worldmodel.errors import UserError
from worldmodel.ray_session import join_ray
from worldmodel.storage import Location
from worldmodel.training.config_file import read_experiment, to_yaml
from worldmodel.training.crew import find_cause
from worldmodel.training.run_folder import check_same, read_config

SCRATCH = ".tune"
"""Folder of a grid's in which Ray Tune keeps its own state."""
DRIVER = {"memory": 1.0}
"""What a trial holds itself whose workers are processes of their own: a byte, for Ray refuses nothing at all. A part of
a CPU, however small, would keep the last worker of a full machine waiting for ever."""
SLACK = 1e-9
"""Ten tenths of a GPU are one."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What a Ray has in all, busy or not."""

    cpus: float
    gpus: float
    machines: int = 1

    @classmethod
    def find(cls) -> Cluster:
        """That of the Ray that was joined."""
        import ray

        total = ray.cluster_resources()
        machines = sum(bool(node["Alive"]) for node in ray.nodes())
        return cls(cpus=total.get("CPU", 0.0), gpus=total.get("GPU", 0.0), machines=machines)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial takes, and how many run at once."""

    cpus_per_worker: float
    gpus_per_worker: float
    workers: int
    at_once: int

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
    if workers < 1 or gpus_per_worker < 0:
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
    return Resources(cpus_per_worker=1, gpus_per_worker=gpus_per_worker, workers=workers, at_once=places // workers)


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


def run_trials(trials: Sequence[Trial], resources: Resources, folder: Location) -> dict[str, str]:
    """Run trials to their ends; each fails alone. What they find stands in their run folders.

    Returns the names of those that failed, with what ended them.
    """
    if not trials:
        return {}
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the newer output prints a banner on stdout, however quiet it is to be
    join_ray()
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it repeats every failure, which the table names
    common = {"workers": resources.workers, "gpus": resources.gpus_per_worker}
    settings = [{"config": to_yaml(trial.config), **common} for trial in trials]
    trainable = tune.with_resources(run_trial, resources.driver)
    place = folder / SCRATCH
    tuner = tune.Tuner(
        trainable,
        param_space={"trial": tune.grid_search(settings)},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=resources.at_once, reuse_actors=True,
            trial_name_creator=_name_trial, trial_dirname_creator=_name_trial,
        ),
        run_config=tune.RunConfig(
            name=uuid.uuid4().hex[:8], storage_path=place.path, storage_filesystem=place.filesystem, verbose=0,
        ),
    )  # fmt: skip
    return {PurePosixPath(end.path).name: _explain(end.error) for end in tuner.fit() if end.error is not None}


def _explain(error: BaseException) -> str:
    cause = find_cause(getattr(error, "cause", None) or error)
    text = str(cause).strip()
    return text if isinstance(cause, UserError) else f"{type(cause).__name__}: {text.splitlines()[-1] if text else ''}"


def _name_trial(trial: Any) -> str:
    return str(read_experiment(trial.config["trial"]["config"], source="trial").name)


def run_trial(settings: dict[str, Any]) -> None:
    """One trial: train (or go on), then evaluate its last checkpoint beside the baselines."""
    from ray import tune

    from worldmodel.rollout.evaluation import evaluate
    from worldmodel.training.checkpoint_list import find_checkpoint
    from worldmodel.training.run_folder import RECORD
    from worldmodel.training.train import TrainRequest, train

    if settings["trial"]["workers"] > 1 and settings["trial"]["gpus"]:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # it holds no GPU, but checks what its workers will compute on
    config = read_experiment(settings["trial"]["config"], source="trial")
    location = Location.of(config.save_dir) / config.name
    has_begun = (location / RECORD).exists()
    train(TrainRequest(config=config, workers=settings["trial"]["workers"], resume=has_begun), report=lambda line: None)
    found = evaluate(location, find_checkpoint(location, "newest"))
    tune.report(found.rows["model"])


def is_done(folder: Location, trial: Trial) -> bool:
    """Whether a trial has been trained to its end, as it is asked for now, and evaluated.

    UserError where the run folder holds another experiment under the trial's name.
    """
    found, location = read_trial(folder, trial), folder / trial.name
    if found.record is None:
        return False
    check_same(location, found.record, trial.config, "")
    older, newer = read_config(location).training, trial.config.training
    is_same_length = (older.num_epochs, older.max_steps) == (newer.num_epochs, newer.max_steps)
    return found.is_finished and is_same_length and found.record.blocks == trial.config.data.dataset_dir
