"""With the kernels as operators a training pass compiles as one graph, and computes the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_training_pass_compiles_as_one_graph() -> None:
    asked = [sys.executable, "-m", "tests.model.operators_compiled"]
    run = subprocess.run(asked, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=230)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert (found["torch"], found["kernels"]) == (0, 0)  # graph breaks on either backend
    assert max(found["scan"], found["convolution"]) < 1e-4
