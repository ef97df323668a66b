"""mamba_ssm's kernels against the plain-torch scan, without a GPU; and when they are chosen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.errors import UserError
from worldmodel.model import kernels
from worldmodel.model.config import ModelConfig
from worldmodel.model.mamba2 import Mamba2


@pytest.mark.skipif(
    find_spec("mamba_ssm") is None or find_spec("triton") is None, reason="mamba_ssm or triton is not installed"
)
def test_interpreted_kernels_equal_the_torch_scan() -> None:
    script = Path(__file__).with_name("interpret_kernels.py")
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": root}
    run = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stderr
    for case, differences in json.loads(run.stdout.splitlines()[-1]).items():
        for name, difference in differences.items():
            assert difference < 1e-4, (case, name, difference)


def test_a_cpu_gets_the_torch_scan_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    cpu = torch.device("cpu")
    assert not kernels.is_chosen("auto", cpu) and not kernels.is_chosen("torch", cpu)
    with pytest.raises(UserError, match=r"'auto' or 'torch'"):
        kernels.is_chosen("kernels", cpu)


@pytest.mark.parametrize("is_installed", [True, False])
def test_a_gpu_gets_the_kernels_where_they_are_installed(monkeypatch: pytest.MonkeyPatch, is_installed: bool) -> None:
    monkeypatch.setattr(kernels, "is_installed", lambda: is_installed)
    gpu = torch.device("cuda")
    assert kernels.is_chosen("auto", gpu) == is_installed
    assert not kernels.is_chosen("torch", gpu)
    if is_installed:
        assert kernels.is_chosen("kernels", gpu)
    else:
        with pytest.raises(UserError, match="not installed"):
            kernels.is_chosen("kernels", gpu)


def test_the_convolution_kernel_sees_the_same_frames_as_the_torch_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stand-in that keeps to causal_conv1d's documented contract: (B, C, T), causal, zeros before."""

    def causal_conv1d_fn(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
        assert activation == "silu"
        y = F.conv1d(x, weight.unsqueeze(1), bias, padding=weight.size(1) - 1, groups=x.size(1))
        return F.silu(y[..., : x.size(-1)])

    stand_in = types.ModuleType("causal_conv1d")
    stand_in.causal_conv1d_fn = causal_conv1d_fn  # type: ignore[attr-defined]
    block = Mamba2(ModelConfig(d_model=32, headdim=16, d_state=8))
    padded = torch.randn(2, 9, block.widths[1])
    expected = block._convolve(padded)
    monkeypatch.setitem(sys.modules, "causal_conv1d", stand_in)
    monkeypatch.setattr(kernels, "has_convolution", lambda: True)
    monkeypatch.setattr(kernels, "is_chosen", lambda *_: True)
    torch.testing.assert_close(block._convolve(padded), expected)


def test_kernels_that_cannot_be_imported_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "causal_conv1d", None)
    with pytest.raises(UserError, match=r"model\.backend to 'torch'"):
        kernels.convolve(torch.randn(1, 4, 8), torch.randn(8, 4), torch.randn(8))
