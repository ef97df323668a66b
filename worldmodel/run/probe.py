"""A few seconds of real training, to learn how fast a run would be here; nothing of it is kept."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import torch

from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import override
from worldmodel.machine.device import describe_device, pick_device
from worldmodel.run.estimate import Pace
from worldmodel.training.data import Dataset
from worldmodel.training.interval import Interval
from worldmodel.training.job import build_trainer
from worldmodel.training.loop import Hooks, Trainer
from worldmodel.training.metrics import Metrics
from worldmodel.training.validation import predict_all
from worldmodel.training.workers import Workers

WARMUP_STEPS = 2
LEAST_STEPS = 3
"""Steps that are measured, however long they take."""
LARGE_BATCH = 128
"""Samples from which on a probe computes a batch in parts, on a CPU."""
ENDLESS = 1 << 20
"""Epochs of a probe, which time ends."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """How fast an experiment trains on the machine at hand, and how much it computes."""

    device: dict[str, Any]
    """What it ran on, see `describe_device`."""
    steps: int
    """Steps that were measured."""
    step_seconds: float
    """Mean seconds of a training step."""
    validation_target_seconds: float
    """Seconds of a validation for each frame that it predicts."""
    parameters: int
    """Numbers that the model learns."""


def run_probe(dataset: Dataset, config: ExperimentConfig, seconds: float) -> Probe:
    """Train an experiment for some seconds, then validate on a batch, on the device that it would take here."""
    device = pick_device(config.training.device)
    torch.set_num_threads(config.training.threads or len(os.sched_getaffinity(0)))
    changes = {"training.num_epochs": ENDLESS, "training.max_steps": None}
    changes["training.log_interval"] = 1 if device.type == "cpu" else None  # a GPU is not to be waited for every step
    if device.type == "cpu" and config.training.batch_size >= LARGE_BATCH:
        changes["training.batch_parts"] = 8  # the machine at hand need not hold a GPU's batch
    trainer = build_trainer(dataset, override(config, changes), Workers(device=device))
    steps, step_seconds = _measure_steps(trainer, seconds)
    return Probe(
        device=describe_device(device),
        steps=steps,
        step_seconds=step_seconds,
        validation_target_seconds=_measure_validation(trainer),
        parameters=sum(p.numel() for p in trainer.model.parameters()),
    )


def _measure_steps(trainer: Trainer, seconds: float) -> tuple[int, float]:
    """Steps measured, and seconds of one."""
    pace, began, done = Pace(steps=LEAST_STEPS, seconds=0.0, warmup_steps=WARMUP_STEPS), time.monotonic(), 0

    def note(interval: Interval, values: dict[str, float]) -> None:
        nonlocal done
        pace.add(interval.step - done, interval.step_seconds)
        done = interval.step

    def is_over() -> str | None:
        return "measured" if pace.step_seconds is not None and time.monotonic() - began > seconds else None

    trainer.run(Hooks(on_interval=note, stop_reason=is_over))
    assert pace.step_seconds is not None
    return done - WARMUP_STEPS, pace.step_seconds


def _measure_validation(trainer: Trainer) -> float:
    """Seconds per target of the second validation batch (of the first, where there is one only)."""
    model, data = trainer.model, trainer.validation
    found = Metrics(data.view.layout, trainer.config.loss_weights, trainer.device)
    rates = []
    model.eval()
    with torch.inference_mode(), torch.autocast(trainer.device.type, torch.bfloat16, enabled=trainer.training.amp):
        began = time.perf_counter()
        for _, targets, predictions, _ in predict_all(model, data):
            found.update(predictions, targets)
            count = int(targets.valid.sum())  # waits for the device
            rates.append((time.perf_counter() - began) / max(1, count))
            if len(rates) == 2:
                break
            began = time.perf_counter()
    return rates[-1]
