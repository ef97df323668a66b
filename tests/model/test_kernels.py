"""mamba_ssm's kernels against the plain-torch scan, without a GPU; and when they are chosen."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
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

ROOT = Path(__file__).parents[2]
TOLERANCE, NARROW_TOLERANCE = 2e-5, 5e-3
"""Of float32 and of float16, relative to the largest value."""
LEAST_SHARED_MEMORY = 99 << 10
"""Bytes of a block's shared memory on an L4; an A100 has 163 KiB, an H100 227."""


def find_python() -> str:
    """The Python that has mamba_ssm and transformers; skips where there is none."""
    own = ROOT / ".venv-kernels/bin/python"
    if own.exists():
        return str(own)
    missing = [name for name in ("mamba_ssm", "triton", "transformers") if find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: `make kernels` installs what is compared with")
    return sys.executable


def run_comparison(script: str, **environment: str) -> dict[str, dict[str, float]]:
    """What a script beside this file prints: case to name to the largest relative difference."""
    asked = [find_python(), str(Path(__file__).with_name(script))]
    variables = {**os.environ, **environment, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(asked, env=variables, capture_output=True, text=True, timeout=230)
    assert run.returncode == 0, run.stderr
    found: dict[str, dict[str, float]] = json.loads(run.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_interpreted_kernels_equal_plain_torch_forward_and_backward() -> None:
    found = run_comparison("interpret_kernels.py", TRITON_INTERPRET="1")
    assert {"state before and behind", "narrow", "model", "rollout"} <= found.keys()
    assert {"gradient of initial", "gradient of x", "final", "y"} <= found["state before and behind"].keys()
    for case, differences in found.items():
        for name, difference in differences.items():
            assert difference < (NARROW_TOLERANCE if case == "narrow" else TOLERANCE), (case, name, difference)


@pytest.mark.slow
def test_the_block_equals_that_of_transformers_forward_and_backward() -> None:
    found = run_comparison("compare_transformers.py")
    assert {name for name, _ in Mamba2(ModelConfig()).named_parameters()} | {"y", "u"} == found["one chunk"].keys()
    for case, differences in found.items():
        for name, difference in differences.items():
            assert difference < TOLERANCE, (case, name, difference)


@pytest.mark.slow
def test_kernels_with_fewer_configurations_equal_plain_torch() -> None:
    """Each configuration that is left, interpreted."""
    counts, *cases = run_comparison("interpret_autotune.py", TRITON_INTERPRET="1").values()
    assert counts["after"] < 0.45 * counts["before"] and counts["most"] <= 3 and counts["bytes"] <= LEAST_SHARED_MEMORY
    assert len(cases) == 3
    for differences in cases:
        assert all(difference < TOLERANCE for difference in differences.values()), differences


@pytest.mark.skipif(not torch.cuda.is_available() or not kernels.is_installed(), reason="no GPU, or no mamba_ssm, here")
def test_kernels_on_the_gpu_equal_plain_torch_there() -> None:
    config, device = ModelConfig(dropout=0.0), torch.device("cuda")
    blocks = {name: Mamba2(replace(config, backend=name)).to(device) for name in ("kernels", "torch")}
    blocks["torch"].load_state_dict(blocks["kernels"].state_dict())
    u = torch.randn(3, 75, config.d_model, device=device)
    found = {}
    for name, block in blocks.items():
        y, state = block(u, None, keep=75, wants_state=True)
        y.square().sum().backward()
        found[name] = [y, *state, *(p.grad for p in block.parameters())]
    for ours, expected in zip(found["kernels"], found["torch"], strict=True):
        size = float(expected.detach().abs().max())
        torch.testing.assert_close(ours, expected, rtol=0, atol=5e-3 * size)  # Triton multiplies in TF32


def test_the_scan_is_imported_without_the_package_around_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As mamba_ssm without its CUDA extension: importing the package fails, its Triton modules are whole."""
    folder = tmp_path / "mamba_ssm/ops/triton"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent):
        (package / "__init__.py").write_text("")
    (tmp_path / "mamba_ssm/__init__.py").write_text("import selective_scan_cuda_that_nobody_has")
    (folder / "layout.py").write_text("CHUNKS = 3")
    (folder / "ssd_combined.py").write_text("from mamba_ssm.ops.triton.layout import CHUNKS")
    monkeypatch.syspath_prepend(str(tmp_path))
    with without_package(monkeypatch):
        with pytest.raises(ImportError, match="selective_scan_cuda"):
            importlib.import_module(kernels.PACKAGE)
        assert kernels.import_scan().CHUNKS == 3


@contextmanager
def without_package(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """While it lasts, nothing of mamba_ssm counts as imported; what is imported meanwhile is forgotten again."""
    for name in list_imported():
        monkeypatch.delitem(sys.modules, name)
    kernels.import_scan.cache_clear()
    yield
    kernels.import_scan.cache_clear()
    for name in list_imported():
        del sys.modules[name]


def list_imported() -> list[str]:
    return [name for name in sys.modules if name.split(".")[0] == kernels.PACKAGE]


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
