"""Running a grid's trials on Ray Tune, each through Ray Train, on whatever Ray there is."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tune.grid import Trial
from worldmodel.errors import UserError
from worldmodel.ray_session import join_ray
from worldmodel.storage import Location
from worldmodel.training.config_file import read_experiment, to_yaml

DRIVER_CPU = 0.01
"""CPU of a trial whose workers are processes of their own: Ray refuses 0, and drivers must not hold the workers'."""


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
            return {"CPU": DRIVER_CPU}
        return {"CPU": self.cpus_per_worker, "GPU": self.gpus_per_worker}

    def describe(self, trials: int) -> str:
        """A line for people."""
        gpu = f", {self.gpus_per_worker:g} GPU" if self.gpus_per_worker else ""
        each = f"{self.workers} worker{'s' * (self.workers > 1)} of {self.cpus_per_worker:g} CPU{gpu}"
        return f"{trials} trials, {min(trials, self.at_once)} at once, each {each}"


def plan_resources(gpus_per_trial: float, workers: int) -> Resources:
    """What runs at once on the cluster there is, so that no two trials can wait for each other for ever.

    UserError where a trial asks for more than the cluster can ever have.
    """
    import ray

    total = ray.cluster_resources()
    cpus, gpus = total.get("CPU", 0.0), total.get("GPU", 0.0)
    if gpus_per_trial * workers > gpus:
        raise UserError(
            f"a trial asks for {gpus_per_trial * workers:g} GPUs ({workers} workers), the cluster has {gpus:g} "
            f"(and {cpus:g} CPUs): lower --gpus-per-trial or --workers-per-trial, or start machines with GPUs"
        )
    if workers > cpus:
        raise UserError(f"a trial asks for {workers} workers of a CPU each, the cluster has {cpus:g} CPUs")
    by_gpu = int(gpus // (gpus_per_trial * workers)) if gpus_per_trial else int(cpus // workers)
    at_once = max(1, min(by_gpu, int(cpus // workers)))
    return Resources(cpus_per_worker=1, gpus_per_worker=gpus_per_trial, workers=workers, at_once=at_once)


def run_trials(trials: Sequence[Trial], resources: Resources, folder: Location) -> None:
    """Run trials to their ends; each fails alone. What they find stands in their run folders."""
    join_ray()
    from ray import tune

    settings = [{"config": to_yaml(trial.config), "workers": resources.workers} for trial in trials]
    trainable = tune.with_resources(run_trial, resources.driver)
    place = folder / ".tune"
    tuner = tune.Tuner(
        trainable,
        param_space={"trial": tune.grid_search(settings)},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=resources.at_once, reuse_actors=True,
            trial_name_creator=_name_trial, trial_dirname_creator=_name_trial,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{os.getpid()}", storage_path=place.path, storage_filesystem=place.filesystem, verbose=0,
        ),
    )  # fmt: skip
    tuner.fit()


def _name_trial(trial: Any) -> str:
    return str(read_experiment(trial.config["trial"]["config"], source="trial").name)


def run_trial(settings: dict[str, Any]) -> None:
    """One trial: train (or go on), then evaluate its last checkpoint beside the baselines."""
    from ray import tune

    from worldmodel.rollout.evaluation import evaluate
    from worldmodel.training.checkpoint_list import find_checkpoint
    from worldmodel.training.run_folder import RECORD
    from worldmodel.training.train import TrainRequest, train

    config = read_experiment(settings["trial"]["config"], source="trial")
    location = Location.of(config.save_dir) / config.name
    has_begun = (location / RECORD).exists()
    train(TrainRequest(config=config, workers=settings["trial"]["workers"], resume=has_begun), report=lambda line: None)
    found = evaluate(location, find_checkpoint(location, "newest"))
    tune.report(found.rows["model"])


def is_done(folder: Location, trial: Trial) -> bool:
    """Whether a trial has been trained to its end and evaluated."""
    from worldmodel.rollout.evaluation import EVALUATION
    from worldmodel.training.record import State
    from worldmodel.training.run_folder import RECORD, read_record

    location = folder / trial.name
    if not (location / RECORD).exists() or not (location / EVALUATION).exists():
        return False
    step = json.loads((location / EVALUATION).read_text())["step"]
    record = read_record(location)
    return record.state is State.FINISHED and step == record.step
