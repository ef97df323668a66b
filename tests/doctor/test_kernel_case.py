"""Kernels are believed only where they agree with plain torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from worldmodel.doctor.check import Outcome
from worldmodel.doctor.kernel_case import check_kernels, compare_blocks, compare_kernels, compare_layers, draw_case
from worldmodel.model import kernels, scan

CPU = torch.device("cpu")


def replace_scan(monkeypatch: pytest.MonkeyPatch, work: Callable[..., Any]) -> None:
    monkeypatch.setattr(kernels, "scan_chunks", work)


def test_a_scan_that_agrees_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frame by frame in place of chunks: other rounding, the same numbers."""

    def step_through(inputs: scan.ScanInputs, chunk: int, *, wants_state: bool) -> tuple[torch.Tensor, torch.Tensor]:
        assert wants_state
        state, outputs = torch.zeros(2, 2, 16, 16), []
        for t in range(inputs.x.size(1)):
            rest = {name: getattr(inputs, name)[:, t : t + 1] for name in ("x", "dt", "b", "c")}
            y, state = scan.step_frame(scan.ScanInputs(a=inputs.a, d=inputs.d, **rest), state)
            outputs.append(y)
        return torch.cat(outputs, 1), state

    replace_scan(monkeypatch, step_through)
    assert compare_kernels(CPU).outcome is Outcome.OK


@pytest.mark.parametrize("wrong", ["outputs", "state", "nan", "gradients"])
def test_a_scan_that_differs_fails(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def err(inputs: scan.ScanInputs, chunk: int, *, wants_state: bool) -> tuple[torch.Tensor, torch.Tensor]:
        y, state = scan.scan_chunks(inputs, chunk, wants_state=wants_state)
        assert state is not None
        off = 0.02 * y.detach().abs().max()
        turned = y + inputs.x - inputs.x.detach()  # the same numbers
        return {
            "outputs": (y + off, state), "state": (y, state * 1.02), "nan": (y * torch.nan, state),
            "gradients": (turned, state),
        }[wrong]  # fmt: skip

    replace_scan(monkeypatch, compute := err)
    assert compute is err
    check = compare_kernels(CPU)
    assert check.is_failed and "differs from plain torch" in check.found and "model.backend=torch" in check.remedy


def test_a_short_layer_is_compared_with_its_states() -> None:
    found = compare_layers(CPU, torch.float32)
    assert {"the short layer's y", "the short layer's gradient of mamba.in_proj.weight"} <= found.keys()
    assert max(found.values()) < 1e-4


@pytest.mark.parametrize("wrong", ["", "convolution"])
def test_a_block_is_compared_with_its_convolution(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def convolve(frames: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        padded = F.pad(frames.mT, (weight.size(1) - 1, 0))
        y = F.silu(F.conv1d(padded, weight.unsqueeze(1), bias, groups=frames.size(2)))
        return (y * 1.1 if wrong else y).mT

    replace_scan(monkeypatch, scan.scan_chunks)
    monkeypatch.setattr(kernels, "convolve", convolve)
    monkeypatch.setattr(kernels, "has_convolution", lambda: True)
    monkeypatch.setattr(kernels, "is_chosen", lambda backend, device: backend == "kernels")
    found = compare_blocks(CPU, torch.float32)
    assert {"the block's y", "the block's gradient of in_proj.weight"} <= found.keys()
    assert (max(found.values()) > 1e-2) == bool(wrong)


def test_kernels_that_break_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no kernel image is available for execution on the device")

    replace_scan(monkeypatch, fail)
    check = compare_kernels(CPU)
    assert check.is_failed and "no kernel image" in check.found and "make gpu" in check.remedy


def test_without_a_gpu_there_is_nothing_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (check,) = check_kernels()
    assert check.outcome is Outcome.SKIPPED


def test_a_gpu_without_kernels_is_slow_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(kernels, "is_installed", lambda: False)
    (check,) = check_kernels()
    assert check.outcome is Outcome.WARNING and "make gpu" in check.remedy


def test_the_case_is_the_same_everywhere() -> None:
    first, second = draw_case(CPU), draw_case(CPU)
    assert all(torch.equal(getattr(first, name), getattr(second, name)) for name in first._fields)
