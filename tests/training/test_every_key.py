"""Keys of an experiment that change no weights do what they say: they name, place, describe, choose or pace."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.machine.fake_gpu import FakeGpu
from tests.run.test_journal import train as train_with_journal
from tests.training.test_loop import ELSEWHERE, SPEED_ONLY
from tests.training.tiny_runs import Log, begin, configure, write_blocks
from worldmodel.blocks.alarms import check_alarms
from worldmodel.blocks.index import Index
from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import list_keys, override
from worldmodel.machine.device import pick_device, set_up_device
from worldmodel.run.card import render_card
from worldmodel.run.record import RunRecord
from worldmodel.run.run_folder import start_run
from worldmodel.run.wandb_sink import WandbSink, choose_mode
from worldmodel.storage import Location
from worldmodel.training.checkpoint_list import list_checkpoints
from worldmodel.training.data import require_source


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blocks(tmp_path_factory.mktemp("games"))


def see_wandb(config: ExperimentConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
    """What W&B is started with."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr("wandb.init", lambda **given: seen.update(given))
    sink = WandbSink.__new__(WandbSink)
    sink._location, sink._tracking, sink._config, sink._id = Location.of(folder), config.tracking, {}, "x"
    sink._open("offline")
    return {name: seen[name] for name in ("project", "entity", "group", "tags")}


def see_alarms(config: ExperimentConfig) -> str:
    """What is said of a data set in which percent holds impossible values."""
    index = Index(games=[], blocks=[], audit={"implausible": {"p0.percent in abc": 3}})
    try:
        return str(check_alarms(index, config.encoding.layout.field_names, config.data.allow, "blocks"))
    except UserError as error:
        return str(error)


def see_best(config: ExperimentConfig, blocks: Path) -> object:
    """Which checkpoint is named the best."""
    log = Log()
    log.run(begin(config, blocks))
    return log.trainer.best


def see_saved(config: ExperimentConfig, blocks: Path) -> object:
    """Which checkpoints are written, and which lines."""
    log = Log()
    log.run(begin(config, blocks))
    return log.saved, list(log.intervals)


def see_kept(config: ExperimentConfig, blocks: Path, folder: Path) -> object:
    """Which checkpoints stay of a run that saves one after each step."""
    often = override(config, {"training.checkpoint_minutes": 1e-6})
    run = start_run(Location.of(folder), often)
    train_with_journal(run, often, blocks)
    return [checkpoint.name for checkpoint in list_checkpoints(run.location)]


VALUES: dict[str, Any] = {
    "name": "other", "goal": "to know", "save_dir": "elsewhere", "data.dataset_dir": "/games",
    "data.allow": ["percent"],
    "tracking.wandb": "offline", "tracking.entity": "us", "tracking.project": "p", "tracking.group": "g",
    "tracking.tags": ["t"], "training.best_metric": "val_loss/total", "training.best_mode": "max",
    "training.log_interval": 3, "training.checkpoint_minutes": 1e-6, "training.batch_parts": 2,
    "training.eval_batch_size": 3, "training.device": "cuda", "training.threads": 3, "training.compile": "compile",
    "training.deterministic": True,
    "training.validation_games": 1,
    "training.rollout_starts": 0, "training.keep_last": 3, "model.chunk_size": 4, "model.backend": "torch",
}  # fmt: skip
"""Another value of each key."""


def look(key: str, config: ExperimentConfig, blocks: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """What the key is about."""
    if key == "name":
        return start_run(Location.of(folder / config.name), config).location.name
    if key == "goal":
        return render_card(RunRecord(name="a", goal=config.goal), config, [])
    if key == "data.dataset_dir":
        return require_source(config) if config.data.dataset_dir else None
    if key == "data.allow":
        return see_alarms(config)
    if key == "tracking.wandb":
        return choose_mode(config.tracking.wandb)
    if key.startswith("tracking."):
        return see_wandb(config, folder, monkeypatch)
    if key.startswith("training.best_"):
        return see_best(config, blocks)
    if key in ("training.log_interval", "training.checkpoint_minutes"):
        return see_saved(config, blocks)
    if key == "training.keep_last":
        return see_kept(config, blocks, folder)
    return see_speed(key, config, blocks, monkeypatch)


def see_speed(key: str, config: ExperimentConfig, blocks: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """What decides how fast it goes."""
    if key == "training.device":
        FakeGpu().install(monkeypatch)
        return pick_device(config.training.device)
    if key == "training.deterministic":
        gpu = FakeGpu().install(monkeypatch)
        set_up_device(torch.device("cuda", 0), deterministic=config.training.deterministic)
        return gpu.calls
    if key == "training.threads":
        return config.training.threads  # given to torch by `train_worker`: see below
    trainer = begin(config, blocks)
    return {
        "training.batch_parts": lambda: len(trainer.feed.batches(0)),
        "training.eval_batch_size": lambda: trainer.validation.batch_size,
        "training.validation_games": lambda: len(trainer.validation.games),
        "training.rollout_starts": lambda: trainer.validation.rollouts is None,
        "training.compile": lambda: trainer.learner.compute_pass is trainer.parallel,
        "model.chunk_size": lambda: [module.chunk for module in trainer.model.modules() if hasattr(module, "chunk")],
        "model.backend": lambda: [module.backend for module in trainer.model.modules() if hasattr(module, "backend")],
    }[key]()


def test_every_key_that_changes_no_weights_has_its_value_here() -> None:
    keys = {key for key in list_keys() if key.startswith(ELSEWHERE)} | SPEED_ONLY
    assert keys == set(VALUES)


@pytest.mark.parametrize("key", [key for key in VALUES if key not in ("save_dir", "training.threads")])
def test_every_key_does_what_it_says(key: str, blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    before = "auto" if key == "tracking.wandb" else None
    plain = configure({key: before} if before else {"training.eval_batch_size": 5, "training.device": "cpu"})
    changed = configure({"training.eval_batch_size": 5, "training.device": "cpu", key: VALUES[key]})
    seen = [look(key, config, blocks, tmp_path / str(n), monkeypatch) for n, config in enumerate((plain, changed))]
    assert seen[0] != seen[1]


def test_threads_and_place_of_a_run_are_those_that_were_asked_for(
    blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worldmodel.run.train import TrainRequest, train

    given: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    places = {"data.dataset_dir": str(blocks), "save_dir": str(tmp_path / "elsewhere"), "training.max_steps": 1}
    train(TrainRequest(config=configure({**places, "training.threads": 3})), report=lambda line: None)
    assert given == [3]
    assert (tmp_path / "elsewhere/unnamed/run.json").exists()
