"""A compiled training pass against the plain one, on a CPU; and what is asked of a machine that compiles."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.tiny_runs import begin, configure, write_blocks
from worldmodel.errors import UserError
from worldmodel.training import compiled
from worldmodel.training.compiled import check_compiler, choose_mode, compile_pass, note_graphs

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blocks(tmp_path_factory.mktemp("games"))


def test_nothing_is_asked_of_a_machine_that_does_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for device in (CPU, GPU):
        check_compiler("off", device)


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"'no-such-compiler' is not found here: install g\+\+"):
        check_compiler("default", CPU)


@pytest.mark.parametrize("mode", ["cuda_graphs", "max_autotune"])
def test_graphs_are_refused_on_a_cpu(mode: Any) -> None:
    with pytest.raises(UserError, match=f"{mode}.* needs a GPU"):
        check_compiler(mode, CPU)


def test_a_gpu_without_triton_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs Triton"):
        check_compiler("default", GPU)


@pytest.mark.parametrize("mode", ["default", "cuda_graphs", "max_autotune"])
def test_parts_whose_gradients_add_up_are_never_replayed_as_graphs(mode: Any) -> None:
    assert choose_mode(mode, parts=2) in ("default", "max-autotune-no-cudagraphs")
    assert choose_mode(mode, parts=1) in ("default", "reduce-overhead", "max-autotune")
    assert len(note_graphs(mode, parts=2)) == (mode != "default")
    assert note_graphs(mode, parts=1) == []


def test_a_pass_that_is_not_compiled_is_the_model_itself(blocks: Path) -> None:
    trainer = begin(configure(), blocks)
    assert compile_pass(trainer.model, trainer.parallel, "off", 1) is trainer.parallel


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU, which is not installed")
def test_a_compiled_run_learns_what_the_plain_one_does_and_is_resumed_exactly(blocks: Path, tmp_path: Path) -> None:
    asked = [sys.executable, "-m", "tests.training.run_compiled", str(blocks), str(tmp_path)]
    run = subprocess.run(asked, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=230)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["compiled"].keys() == found["plain"].keys()
    for step, values in found["plain"].items():
        assert found["compiled"][step] == pytest.approx(values, rel=2e-3), step
    assert found["programs"] > 0
    assert found["is_resumed_exactly"]
    assert found["is_dropout_a_function_of_the_step"]
    model = begin(configure({"model.copy_prior": 2.0}), blocks).model
    assert set(found["names"]) == model.state_dict().keys()
