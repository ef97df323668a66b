"""What `worldmodel export` writes, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from worldmodel.cli.main import main
from worldmodel.experiment.config import EncodingConfig, ExperimentConfig, ModelConfig
from worldmodel.model.build import build_model
from worldmodel.model.exchange import load_users_checkpoint
from worldmodel.run.run_folder import start_run
from worldmodel.storage import Location
from worldmodel.training.checkpoint import Checkpoint, CheckpointState, save_checkpoint

PLAIN = ExperimentConfig(name="tiny", model=ModelConfig(d_model=16, n_layers=1, headdim=8, d_state=4))
OURS = replace(
    PLAIN,
    model=replace(PLAIN.model, kinematic_head=True, rule_prior=True, copy_prior=4.0, backend="kernels"),
    encoding=EncodingConfig(targets="published"),
)


def keep(folder: Path, config: ExperimentConfig) -> Checkpoint:
    """A run "tiny" with two checkpoints; the newest of them."""
    run = start_run(Location.of(folder), config, unrecorded=["hitlag"])
    for step in (4, 8):
        model = build_model(replace(config.model, backend="torch"), config.encoding.layout)
        state = CheckpointState(step=step, epoch=2)
        newest = Checkpoint.of(model, torch.optim.AdamW(model.parameters()), state)
        save_checkpoint(run.location, newest)
    return newest


def export(folder: Path, file: str, *more: str) -> int:
    return main(["export", str(folder / "tiny"), str(folder / file), "--checkpoint", "newest", *more])


def test_the_users_format_has_the_runs_weights(tmp_path: Path) -> None:
    newest = keep(tmp_path, PLAIN)
    assert export(tmp_path, "tiny.pt") == 0
    exported = load_users_checkpoint(tmp_path / "tiny.pt")
    assert exported.epoch == 1
    assert exported.weights.keys() == newest.weights.keys()
    assert all(torch.equal(exported.weights[name], value) for name, value in newest.weights.items())


def test_other_formats_take_what_the_users_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newest = keep(tmp_path, OURS)
    assert export(tmp_path, "x.pt") == 2
    assert "--format torch or safetensors" in capsys.readouterr().err
    assert export(tmp_path, "x.safetensors", "--format", "safetensors") == 0
    assert export(tmp_path, "x.pt2", "--format", "torch") == 0
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        told = json.loads(file.metadata()["worldmodel"])
        assert all(torch.equal(file.get_tensor(name), value) for name, value in newest.weights.items())
    extra = {"worldmodel.json": ""}
    torch.export.load(tmp_path / "x.pt2", extra_files=extra)
    assert told.items() <= json.loads(extra["worldmodel.json"]).items()
    assert told["experiment"]["model"]["rule_prior"] is True
    assert (told["step"], told["untrained"]) == (8, ["hitlag"])
    assert not {"data", "tracking", "save_dir"} & set(told["experiment"])


@pytest.mark.parametrize(
    ("file", "format", "named"),
    [
        ("absent/x.pt", "upstream", "cannot be written"),
        (".", "torch", "cannot be written"),
        ("x.pt2", "upstream", "--format torch"),
        ("x.pt", "safetensors", "--format upstream"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, format: str, named: str
) -> None:
    assert export(tmp_path, file, "--format", format) == 2
    assert named in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
