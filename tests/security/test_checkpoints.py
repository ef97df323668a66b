"""Weights that somebody with the right to write a bucket has replaced, manifest and all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from worldmodel.cli.main import main
from worldmodel.experiment.config import ExperimentConfig, ModelConfig
from worldmodel.model.build import build_model
from worldmodel.run.run_folder import start_run
from worldmodel.storage import Location
from worldmodel.training.checkpoint import Checkpoint, CheckpointState, save_checkpoint

CONFIG = ExperimentConfig(name="tiny", model=ModelConfig(d_model=16, d_state=8, headdim=8, n_layers=1))


def save(folder: Path, seed: int) -> None:
    """Save a checkpoint of step 4, in place of one that is there."""
    torch.manual_seed(seed)
    model = build_model(CONFIG.model, CONFIG.encoding.layout)
    state = Checkpoint.of(model, torch.optim.AdamW(model.parameters()), CheckpointState(step=4, epoch=1))
    save_checkpoint(Location.of(folder / "tiny"), state)


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A storage with one run."""
    start_run(Location.of(tmp_path), CONFIG)
    save(tmp_path, 0)
    return tmp_path


def fetch(storage: Path, to: str, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, str]:
    assert main(["fetch", str(storage / "tiny"), str(storage / to), "--json", *more]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_replaced_weights_are_not_fetched(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = fetch(storage, "first", capsys)["sha256"]
    assert fetch(storage, "again", capsys, "--expect", digest)["sha256"] == digest
    save(storage, 1)
    assert main(["fetch", str(storage / "tiny"), str(storage / "hostile"), "--expect", digest]) == 2
    said = capsys.readouterr().err
    assert digest in said and "step-00000004" in said and not (storage / "hostile").exists()
    assert fetch(storage, "unasked", capsys)["sha256"] != digest, "without --expect the bucket's word is taken"


def test_an_empty_digest_is_refused(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a shell makes it of a variable that is not set."""
    assert main(["fetch", str(storage / "tiny"), str(storage / "to"), "--expect", ""]) == 2
    assert "is not the checkpoint" in capsys.readouterr().err and not (storage / "to").exists()
