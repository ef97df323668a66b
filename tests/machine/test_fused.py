"""Chains run compiled where they should, and as written elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch import _inductor as inductor

from worldmodel.machine import fused


@fused.fused
def double(x: Tensor) -> Tensor:
    return 2 * x


def test_chains_run_as_written_on_a_cpu() -> None:
    assert double(torch.ones(2)).tolist() == [2.0, 2.0]
    assert not fused.has_fused()


@pytest.mark.parametrize("records", [True, False])
def test_chains_are_compiled_where_gradients_are_recorded(records: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    monkeypatch.setattr(fused, "compile_chain", lambda function: names.append(function.__name__) or function)
    x = torch.ones(2, device="meta")
    monkeypatch.setattr(fused, "DEVICE", "meta")
    with torch.set_grad_enabled(records):
        double(x)
        double(x)
    assert names == (["double"] if records else [])
    assert fused.has_fused() == records
    fused.reset_fusing()
    assert not fused.has_fused()


def test_disabled_chains_run_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "DEVICE", "cpu")
    monkeypatch.setattr(fused, "compile_chain", lambda function: pytest.fail("compiled"))
    fused.reset_fusing(enabled=False)
    assert double(torch.ones(1)).item() == 2
    fused.reset_fusing()


@pytest.mark.parametrize("wanted", [False, True])
def test_deterministic_training_compiles_without_trials(wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}
    monkeypatch.setattr(torch, "compile", lambda function, **options: asked.update(options) or function)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: wanted)
    fused.compile_chain(double)
    assert asked["options"] == {**fused.OPTIONS, "deterministic": wanted}
    assert all(hasattr(inductor.config, name) for name in (*fused.OPTIONS, "deterministic"))


def test_failing_compiler_without_words_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> object:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(torch, "ones", fail)
        assert fused.explain_missing_compiler(torch.device("cuda", 0)) == "RuntimeError: "
    said: list[str] = []
    fused.tell_failures(said.append)
    fused.give_up(RuntimeError())
    assert "RuntimeError" in said[0] and not fused.can_compile()
    fused.reset_fusing()
    assert fused.can_compile()
