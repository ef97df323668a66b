"""What a Ray has in all, what a trial takes of it, and how many trials run at once."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from worldmodel.errors import UserError
from worldmodel.storage import Location

DRIVER = {"memory": 1.0}
"""What a trial holds itself whose workers are processes of their own: a byte, for Ray refuses nothing at all. A part of
a CPU, however small, would keep the last worker of a full machine waiting for ever."""
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
