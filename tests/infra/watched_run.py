"""What runs inside Ray while Prometheus watches: a module of its own, so that Ray's workers can import it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from worldmodel.experiment.config_file import read_experiment
from worldmodel.run import gauges, journal
from worldmodel.run.train import TrainRequest, train
from worldmodel.training.stopwatch import Stopwatch

HOST, DEVICE = 0.25, 0.75
"""Shares of the host and of the GPU in a step."""
PEAK = 1e6
"""Targets per second at an MFU of 1."""


def train_watched(config: str) -> None:
    """Train, with a price, as if on a GPU that NVIDIA's library knows; its numbers are a busy one's."""
    read = Stopwatch.read
    Stopwatch.read = lambda watch: replace(read(watch), host=HOST, device=DEVICE)  # type: ignore[method-assign]
    journal.find_peak_rate = lambda config, device, workers: PEAK
    gpu = SimpleNamespace(read_use=lambda: 0.5, read_memory=lambda: 2.0**31, close=lambda: None)
    gauges.Gpu = SimpleNamespace(open=lambda device: gpu)  # type: ignore[misc, assignment]
    train(TrainRequest(config=read_experiment(config, source="test")), report=lambda line: None)
