"""The rehearsal does what a run does, leaves nothing behind, and stops at what a run would stop at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from worldmodel.doctor import rehearsal
from worldmodel.doctor.check import Outcome
from worldmodel.doctor.rehearsal import rehearse

PARTS = ["encode", "train, validate, save", "restore", "evaluate"]


def test_two_batches_go_all_the_way_and_nothing_is_left(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    checks = list(rehearse(str(tmp_path / "runs")))
    assert [check.name for check in checks] == [f"rehearsal: {part}" for part in PARTS]
    assert {check.outcome for check in checks} == {Outcome.OK}, checks
    assert "2 batches on" in checks[1].found and "bit for bit" in checks[2].found
    assert not (tmp_path / "runs").exists()
    assert capfd.readouterr().out == ""


def test_what_breaks_is_told_and_the_rest_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a run").mkdir()
    monkeypatch.setattr(rehearsal, "train", lambda request, report: fail("CUDA error: out of memory"))
    *_, last = checks = list(rehearse(str(tmp_path)))
    assert [check.outcome for check in checks] == [Outcome.OK, Outcome.FAILED]
    assert last.name == "rehearsal: train, validate, save" and "out of memory" in last.found and last.remedy
    assert [path.name for path in tmp_path.iterdir()] == ["a run"]


def fail(text: str) -> Any:
    raise RuntimeError(text)


def test_a_restored_state_that_differs_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = rehearsal.make_trainer

    def forget(*words: Any) -> Any:
        trainer, recovery = make(*words)
        trainer.step = 0
        next(trainer.model.parameters()).data.add_(1)
        return trainer, recovery

    monkeypatch.setattr(rehearsal, "make_trainer", forget)
    last = list(rehearse(str(tmp_path)))[-1]
    assert last.name == "rehearsal: restore" and last.is_failed and "restored at step 0, expected 2" in last.found
