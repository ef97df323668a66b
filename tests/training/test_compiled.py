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
from worldmodel.training.compiled import captures, check_compiler, choose_mode, compile_pass

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blocks(tmp_path_factory.mktemp("games"))


@pytest.mark.parametrize("mode", ["auto", "off", "graph"])
def test_nothing_is_asked_of_a_machine_that_does_not_compile(monkeypatch: pytest.MonkeyPatch, mode: Any) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    check_compiler(mode, GPU)
    if mode != "graph":
        check_compiler(mode, CPU)


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"'no-such-compiler' is not found here: install g\+\+"):
        check_compiler("compile", CPU)


@pytest.mark.parametrize("mode", ["graph", "compile_graph"])
def test_graphs_are_refused_on_a_cpu(mode: Any) -> None:
    with pytest.raises(UserError, match=f"'{mode}' needs a GPU, the run is on a CPU: set it to 'auto'"):
        check_compiler(mode, CPU)


def test_a_gpu_without_triton_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs Triton"):
        check_compiler("compile", GPU)


def test_auto_captures_steps_on_a_gpu_and_does_nothing_on_a_cpu() -> None:
    assert (choose_mode("auto", GPU), choose_mode("auto", CPU)) == ("graph", "off")
    for mode, expected in (("off", False), ("graph", True), ("compile", False), ("compile_graph", True)):
        assert choose_mode(mode, GPU) == mode
        assert captures(mode) is expected


@pytest.mark.parametrize(
    ("old", "new"), [("default", "compile"), ("cuda_graphs", "graph"), ("max_autotune", "compile_graph")]
)
def test_a_mode_of_old_is_told_its_new_name(old: str, new: str) -> None:
    with pytest.raises(UserError, match=f"found \"{old}\", expected 'auto'.*is called '{new}' now"):
        configure({"training.compile": old})


def test_a_pass_that_is_not_compiled_is_the_model_itself(blocks: Path) -> None:
    learner = begin(configure(), blocks).learner
    assert learner.compute_pass is learner.parallel
    assert compile_pass(learner.model, learner.parallel, "compile", CPU) is not learner.parallel


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
