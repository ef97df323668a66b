"""Trials that share a GPU use MPS where it runs, and only there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from worldmodel.machine.mps import PIPES, use_mps


@pytest.mark.parametrize(
    ("share", "pid", "expected"),
    [(0.25, "own", True), (1.0, "own", False), (0.25, 2**22 + 1, False), (0.25, None, False)],
)
def test_a_share_uses_a_service_that_runs(
    share: float, pid: int | str | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worldmodel.machine.mps.find_folder", lambda: tmp_path)
    monkeypatch.setenv(PIPES, "")
    monkeypatch.delenv(PIPES)
    if pid is not None:
        (tmp_path / "nvidia-cuda-mps-control.pid").write_text(f"{os.getpid() if pid == 'own' else pid}\n")
    assert use_mps(share) is expected
    assert os.environ.get(PIPES) == (str(tmp_path) if expected else None)
