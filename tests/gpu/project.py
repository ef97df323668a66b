"""All that these tests know of the project's insides. Where the trainer changes, change this file."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from tests.gpu.recorder import Recorder
from worldmodel.blocks.encode import encode
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import load_experiment, override, to_yaml
from worldmodel.experiment.presets import apply_preset
from worldmodel.features.rows import RowMatrix
from worldmodel.features.view import FeatureView
from worldmodel.games.toy import write_toy_games
from worldmodel.machine.device import pick_device
from worldmodel.model import kernels
from worldmodel.model.build import build_model
from worldmodel.run import train_worker
from worldmodel.run.record import RunRecord
from worldmodel.training import capture, step, validation
from worldmodel.training.data import open_dataset
from worldmodel.training.feed import Feed, Worker
from worldmodel.training.job import Job
from worldmodel.training.loop import Trainer
from worldmodel.training.metrics import Metrics
from worldmodel.training.plausibility import Watch
from worldmodel.training.step import Learner
from worldmodel.training.validation import open_validation
from worldmodel.training.workers import Workers


def make_blocks() -> str:
    """A few toy games as blocks, made once per machine."""
    folder = Path(tempfile.gettempdir()) / "worldmodel-fake-cuda"
    if not (folder / "blocks/index.json").exists():
        write_toy_games(folder / "toy", 24, 0)
        encode(str(folder / "toy"), str(folder / "blocks"))
    return str(folder / "blocks")


def make_config(changes: dict[str, Any], preset: str | None = None, name: str = "baseline") -> ExperimentConfig:
    """An experiment of `tune/experiments`, with changes; steps run as they are, uncaptured."""
    config = load_experiment(Path(f"tune/experiments/{name}.yaml"))
    if preset:
        config, _ = apply_preset(preset, config)
    return override(config, {"training.compile": "off", **changes}, source="tests.gpu")


@contextlib.contextmanager
def on_backend(backend: str, has_convolution: bool = False) -> Iterator[None]:
    """Let the model run on "torch" or "kernels", whatever is installed."""

    def is_chosen(wish: str, device: torch.device) -> bool:
        return wish != "torch" and backend == "kernels" and device.type == "cuda"

    with (
        mock.patch.object(kernels, "is_installed", lambda: backend == "kernels"),
        mock.patch.object(kernels, "is_chosen", is_chosen),
        mock.patch.object(kernels, "has_convolution", lambda: has_convolution),
    ):
        yield


@contextlib.contextmanager
def without_values() -> Iterator[None]:
    """Replace what needs the values of frames: they are not on a fake GPU."""

    def count_present(view: FeatureView, store: Any) -> dict[str, np.ndarray]:
        return {term: np.full(store.game_count, 2 * len(place)) for term, place in view._places.fields.items()}

    begin = Watch.__init__

    def begin_watch(watch: Watch, before: Any) -> None:
        stages = mock.Mock(tolist=lambda: [0] * len(before.stages))
        begin(watch, replace(before, stages=stages))

    with (
        mock.patch.object(Watch, "__init__", begin_watch),
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

        name(Learner, "make", "view")
        name(Feed, "open", "view")
        name(Learner, "_predict", "forward")
        name(step, "compute_loss", "loss")
        name(torch.Tensor, "backward", "backward")
        name(Metrics, "update", "metrics")
        with recorder.during("rest"):
            yield


def open_trainer(config: ExperimentConfig, blocks: str, workers: Workers) -> Trainer:
    """A trainer on a fake GPU, without validation games."""
    dataset = open_dataset(blocks, config)
    feed = Feed(dataset, config, Worker(device=workers.device, rank=workers.rank, world=workers.world))
    with workers.device:
        model = build_model(config.model, config.encoding.layout)
    return Trainer(model, feed, None, config, workers)  # type: ignore[arg-type]


def find_workers(rank: int | None) -> Workers:
    """What a worker of a training job finds to be its place: the only worker, or one of two on a machine."""
    if rank is None:
        return Workers(device=pick_device("cuda"))
    context = mock.Mock(**{"get_world_rank.return_value": rank, "get_world_size.return_value": 2})
    context.get_local_rank.return_value, context.get_local_world_size.return_value = rank, 2
    with (
        mock.patch("ray.train.get_context", lambda: context),
        mock.patch("ray.train.torch.get_device", lambda: torch.device("cuda", rank)),
        mock.patch.object(Workers, "gather", lambda self, text: [text]),
        mock.patch.object(train_worker, "attach", lambda settings: (settings, None)),
        mock.patch.object(train_worker, "make_trainer", _find),
        mock.patch.object(Workers, "share", lambda self, mine: mine), mock.patch.object(train_worker, "note_price"),
        mock.patch.object(train_worker, "read_written", lambda place: RunRecord(name="run")),
        mock.patch.object(train_worker, "Run"),
        mock.patch.object(train_worker, "identify", dict), mock.patch.object(train_worker, "Journal"),
        mock.patch.object(train_worker, "continue_in_worker"),
    ):  # fmt: skip
        try:
            config = to_yaml(make_config({"training.device": "cuda"}))
            train_worker.train_worker(vars(Job(config=config, run="runs", blocks="", workers=2, resume=False, init="")))
        except _Found as found:
            return found.args[0]
    raise AssertionError("the worker made no trainer")


class _Found(Exception): ...


def _find(job: Job, config: ExperimentConfig, workers: Workers) -> None:
    raise _Found(workers)


def run_step(trainer: Trainer, number: int) -> None:
    """One training step."""
    trainer.step = number
    trainer._train_step()


def run_ahead(trainer: Trainer, in_thread: Callable[[Any], Any], steps: int) -> None:
    """Some steps, the batch of each made in a thread, as in a run."""
    trainer.step, trainer._ahead = 1, mock.Mock(take=in_thread(trainer._make))
    for _ in range(steps):
        trainer._train_step()
    trainer._ahead = None


def choose_steps(trainer: Trainer) -> tuple[list[int], list[int]]:
    """First steps, which fill caches (step 0 takes metrics), and two that are looked at: one is an epoch's last, whose
    batch is short."""
    first = [0, 1] if trainer.config.self_forcing.enabled else [0]
    some, last = first[-1] + len(first), trainer.schedule.steps_per_epoch - 1
    return first, [some, last if last % step.METRICS_EVERY else some + 2]


def capture_steps(config: ExperimentConfig, blocks: str, workers: Workers) -> list[str]:
    """Run steps of each kind until they are captured; returns what is said of those that cannot be."""
    trainer = open_trainer(override(config, {"training.compile": "graph"}, source="tests.gpu"), blocks, workers)
    said: list[str] = []
    trainer.learner.tell(said.append)
    with mock.patch.object(capture, "WARM_UP", 1):
        for number in (0, step.METRICS_EVERY, 1, 3, 2, 4):  # with metrics, self-forcing where it is on, ordinary
            run_step(trainer, number)
    return said


def run_validation(trainer: Trainer, blocks: str, config: ExperimentConfig) -> None:
    """A validation and short rollouts, but for what is computed from their sums in the end."""
    dataset = open_dataset(blocks, config)
    data = open_validation(dataset, config, trainer.feed.worker, trainer.feed.view)
    assert data.rollouts is not None
    data = replace(data, games=data.games[:1], batch_size=2048, rollouts=replace(data.rollouts, horizon=3))
    with mock.patch.object(validation, "CHUNK", 2048):
        validation.validate(trainer.model, data, config.loss_weights, amp=config.training.amp)
    validation.measure_rollouts(trainer.model, data)


def count_targets(trainer: Trainer) -> int:
    """Target frames of a step."""
    return int(trainer.training.batch_size * trainer.feed.shape.positions)
