"""Gauges of a run under way, for Prometheus: set through Ray, which exports them as `ray_worldmodel_*` on every node.

They are set where Ray runs already: in a trial of a grid, and in a worker of Ray Train. A series lasts as long as it is
set: Ray forgets one that was not set for twice its report interval (20 seconds in all, unless told otherwise).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch

from worldmodel.experiment.config import ExperimentConfig
from worldmodel.machine.gpu import Gpu
from worldmodel.run.record import RunRecord
from worldmodel.training.coherence import COHERENCE, name_metric
from worldmodel.training.interval import Interval
from worldmodel.training.loop import Trainer

GAUGES = {
    "loss": "mean training loss since the line before",
    "targets_per_second": "frames predicted per second, over all workers",
    "step_seconds": "mean seconds of an optimizer step",
    "data_share": "share (0 to 1) of the time spent waiting for data",
    "host_share": "share (0 to 1) of the time in which the host prepared work for the GPU; absent on a CPU",
    "device_share": "share (0 to 1) of the time in which steps ran on the GPU; absent on a CPU",
    "mfu": "share (0 to 1) of the GPUs' peak that the model's operations are; absent on a CPU or an unknown GPU",
    "epoch": "epochs done, with the part of the one under way",
    "step": "optimizer steps done",
    "best_metric": "best value so far of the metric named by the tag `metric`",
    "coherence": "position MAE (Melee units) over the first 20 frames of rollouts, at the last validation",
    "gpu_use": "share (0 to 1) of the last moments in which the first worker's GPU computed, for whomever",
    "gpu_memory_bytes": "bytes taken of the memory of the first worker's GPU, by whomever",
    "cost_usd": "dollars so far, over all attempts; absent where the price is unknown",
    "seconds": "seconds of wall clock so far, over all attempts",
}
"""What each gauge says, by its name without the prefix."""
PREFIX = "worldmodel_"
TAGS = ("run", "grid", "seed")
"""Of every gauge: the run's name, its group (empty: none), and its seed."""
MORE_TAGS = {"best_metric": ("metric",)}


class Gauges:
    """The gauges of one run. What fails here is noted once, ends the gauges, and never the run."""

    def __init__(self, config: ExperimentConfig, device: torch.device, note: Callable[[str], None]) -> None:
        self._note, self._device = note, device
        self._tags = {
            "run": config.name,
            "grid": config.tracking.group or "",
            "seed": str(config.training.seed),
            "metric": config.training.best_metric,
        }
        self._gauges: dict[str, Any] = {}
        self._is_open = has_ray()
        self._gpu: Gpu | None = None

    def show(self, values: Mapping[str, float | None]) -> None:
        """Set gauges by their names in `GAUGES`, those of the GPU besides; None leaves one unset."""
        if not self._is_open:
            return
        try:
            if not self._gauges:
                self._gpu = Gpu.open(self._device)
            for name, value in {**values, **self._read_gpu()}.items():
                if value is not None:
                    self._set(name, value)
        except Exception as error:  # noqa: BLE001  (the edge between the run and what merely watches it)
            self._is_open = False
            text = " ".join(str(error).split())[:300]
            self._note(f"no gauges for Prometheus any more ({type(error).__name__}: {text})")

    def close(self) -> None:
        """Lets the GPU go. Ray forgets the gauges by itself."""
        if self._gpu:
            self._gpu.close()

    def _read_gpu(self) -> dict[str, float | None]:
        return {"gpu_use": self._gpu.read_use(), "gpu_memory_bytes": self._gpu.read_memory()} if self._gpu else {}

    def _set(self, name: str, value: float) -> None:
        names = TAGS + MORE_TAGS.get(name, ())
        if name not in self._gauges:
            from ray.util.metrics import Gauge

            self._gauges[name] = Gauge(PREFIX + name, GAUGES[name], tag_keys=names)
        self._gauges[name].set(float(value), tags={tag: self._tags[tag] for tag in names})


def has_ray() -> bool:
    """Whether Ray runs in this process; it is neither imported nor started for the answer."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def describe_interval(interval: Interval) -> dict[str, float | None]:
    """The gauges of what happened since the line before."""
    return {
        "loss": interval.loss,
        "targets_per_second": interval.targets_per_second,
        "step_seconds": interval.step_seconds,
        "data_share": interval.data_share,
        "host_share": interval.host_share,
        "device_share": interval.device_share,
        "mfu": interval.mfu,
    }


def describe_progress(trainer: Trainer, record: RunRecord) -> dict[str, float | None]:
    """The gauges of how far a run is and what it has cost."""
    return {
        "epoch": trainer.step / trainer.schedule.steps_per_epoch,
        "step": float(trainer.step),
        "best_metric": trainer.best.value if trainer.best else None,
        "coherence": record.metrics.get(name_metric("pos_mae", COHERENCE, trainer.config.training.rollout_starts)),
        "cost_usd": record.cost_usd,
        "seconds": record.seconds.total,
    }
