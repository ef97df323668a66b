"""What runs inside Ray while Prometheus watches: a module of its own, so that Ray's workers can import it."""

from __future__ import annotations

from types import SimpleNamespace

from worldmodel.training import gauges
from worldmodel.training.config_file import read_experiment
from worldmodel.training.train import TrainRequest, train


def train_watched(config: str) -> None:
    """Train, with a price, as if on a GPU that NVIDIA's library knows; it says what a busy one would."""
    gpu = SimpleNamespace(read_use=lambda: 0.5, read_memory=lambda: 2.0**31, close=lambda: None)
    gauges.Gpu = SimpleNamespace(open=lambda device: gpu)  # type: ignore[misc, assignment]
    train(TrainRequest(config=read_experiment(config, source="test")), report=lambda line: None)
