"""All that these tests know of the project's insides. Where the trainer changes, change this file."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from tests.gpu.recorder import Recorder
from worldmodel.blocks.encode import encode
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import load_experiment, override
from worldmodel.experiment.presets import apply_preset
from worldmodel.features.rows import RowMatrix
from worldmodel.features.view import FeatureView
from worldmodel.games.toy import write_toy_games
from worldmodel.model import kernels
from worldmodel.model.build import build_model
from worldmodel.training import loop
from worldmodel.training.data import open_dataset
from worldmodel.training.feed import Feed, Worker
from worldmodel.training.loop import Trainer
from worldmodel.training.workers import Workers

ORDINARY_STEP = 1
"""A step without metrics."""


def make_blocks() -> str:
    """A few toy games as blocks, made once per machine."""
    folder = Path(tempfile.gettempdir()) / "worldmodel-fake-cuda"
    if not (folder / "blocks/index.json").exists():
        write_toy_games(folder / "toy", 24, 0)
        encode(str(folder / "toy"), str(folder / "blocks"))
    return str(folder / "blocks")


def make_config(changes: dict[str, Any], preset: str | None = None, name: str = "baseline") -> ExperimentConfig:
    """An experiment of `tune/experiments`, with changes."""
    config = load_experiment(Path(f"tune/experiments/{name}.yaml"))
    if preset:
        config, _ = apply_preset(preset, config)
    return override(config, changes, source="tests.gpu")


@contextlib.contextmanager
def on_backend(backend: str) -> Iterator[None]:
    """Let the model run on "torch" or "kernels", whatever is installed."""
    with (
        mock.patch.object(kernels, "is_installed", lambda: backend == "kernels"),
        mock.patch.object(
            kernels,
            "is_chosen",
            lambda wish, device: wish != "torch" and backend == "kernels" and device.type == "cuda",
        ),
    ):
        yield


@contextlib.contextmanager
def without_values() -> Iterator[None]:
    """Replace what needs the values of frames: they are not on a fake GPU."""

    def count_present(view: FeatureView, store: Any) -> dict[str, np.ndarray]:
        return {term: np.full(store.game_count, 2 * len(place)) for term, place in view._places.fields.items()}

    with (
        mock.patch.object(RowMatrix, "put", lambda self, first, block: None),
        mock.patch.object(FeatureView, "count_present", count_present),
    ):
        yield


@contextlib.contextmanager
def phases(recorder: Recorder) -> Iterator[None]:
    """Tell the recorder which phase of a step it sees."""
    with contextlib.ExitStack() as stack:

        def name(owner: Any, attribute: str, phase: str) -> None:
            inner = getattr(owner, attribute)

            def run(*args: Any, **options: Any) -> Any:
                with recorder.during(phase):
                    return inner(*args, **options)

            stack.enter_context(mock.patch.object(owner, attribute, run))

        name(Feed, "batches", "view")
        name(Trainer, "_predict", "forward")
        name(loop, "compute_loss", "loss")
        name(torch.Tensor, "backward", "backward")
        name(loop.Metrics, "update", "metrics")
        with recorder.during("rest"):
            yield


def open_trainer(config: ExperimentConfig, blocks: str, workers: Workers) -> Trainer:
    """A trainer on a fake GPU, without validation games."""
    dataset = open_dataset(blocks, config)
    feed = Feed(dataset, config, Worker(device=workers.device, rank=workers.rank, world=workers.world))
    with workers.device:
        model = build_model(config.model, config.encoding.layout)
    return Trainer(model, feed, None, config, workers)  # type: ignore[arg-type]


def run_step(trainer: Trainer, step: int) -> None:
    """One training step."""
    trainer.step = step
    trainer._train_step()


def count_targets(trainer: Trainer) -> int:
    """Target frames of a step."""
    return int(trainer.training.batch_size * trainer.feed.shape.positions)
