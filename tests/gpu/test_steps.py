"""Training steps on fake GPUs: they run, never wait, repeat their operations and keep to a budget."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.cases import KERNELS, TORCH, Case
from tests.model.test_kernels import find_python

ROOT = Path(__file__).parents[2]
MOST_ATEN, MOST_TRITON, MOST_KB = 500, 80, 600
"""Launches of a step at 64 x 64, and KB of memory traffic per target at 512 x 64."""


@cache
def run_cases(kind: str) -> dict[str, dict[str, Any]]:
    """What `run_cases` finds, in a process of its own."""
    if shutil.which("g++") is None:
        pytest.skip("g++ not installed: it compiles the fake GPU's device guard (apt-get install g++)")
    python = sys.executable if kind == "torch" else find_python()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [python, "-m", "tests.gpu.run_cases", kind]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=230)
    assert run.returncode == 0, run.stderr
    found: dict[str, dict[str, Any]] = json.loads(run.stdout.splitlines()[-1])
    return found


def _list(only: str = "name") -> list[Any]:
    """Cases of which an attribute is true."""
    group = pytest.mark.xdist_group("fake gpu")
    both = (("torch", TORCH, (group,)), ("kernels", KERNELS, (group, pytest.mark.slow)))
    return [
        pytest.param(kind, case, id=case.name, marks=marks)
        for kind, cases, marks in both
        for case in cases
        if getattr(case, only)
    ]


def _find(kind: str, case: Case) -> dict[str, Any]:
    found = run_cases(kind)[case.name]
    assert found["error"] is None, "\n".join([found["error"], *found["at"]])
    return found


@pytest.mark.parametrize(("kind", "case"), _list())
def test_step_runs(kind: str, case: Case) -> None:
    _find(kind, case)


@pytest.mark.parametrize(("kind", "case"), _list())
def test_step_never_waits_for_the_gpu(kind: str, case: Case) -> None:
    assert _find(kind, case)["waits"] == []


@pytest.mark.parametrize(("kind", "case"), _list())
def test_steps_issue_the_same_operations(kind: str, case: Case) -> None:
    assert _find(kind, case)["differences"] == []


@pytest.mark.parametrize(("kind", "case"), _list("is_captured"))
def test_every_kind_of_step_can_be_captured(kind: str, case: Case) -> None:
    assert _find(kind, case)["obstacles"] == []


@pytest.mark.parametrize(("kind", "case"), _list("is_compiled"))
def test_kernels_of_chains_compile_for_an_a100(kind: str, case: Case) -> None:
    kernels = _find(kind, case)["kernels"]
    assert kernels and {name: error for name, error in kernels.items() if error} == {}


@pytest.mark.parametrize(("kind", "case"), _list("is_measured"))
def test_step_keeps_to_its_budget(kind: str, case: Case) -> None:
    cost = _find(kind, case)["cost"]
    if case.changes["training.batch_size"] == 64:
        assert cost["aten_total"] + cost["fused"] <= MOST_ATEN and cost["triton"] <= MOST_TRITON
    else:
        assert cost["KB_per_target"] <= MOST_KB
