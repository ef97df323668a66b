"""The GPU's kernels against plain torch, on one small scan: importable, and right."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import torch

from worldmodel.doctor.check import Check, failed, passed, skipped, warned
from worldmodel.model import kernels, scan

NAME = "kernels"
TOLERANCE = 5e-3
"""Largest difference, relative to the largest value: Triton multiplies in TF32 on a GPU."""
FRAMES, CHUNK = 37, 16
"""Frames of the case, which the chunk does not divide."""


def check_kernels() -> Iterator[Check]:
    """mamba_ssm's scan where it would be used: on a GPU, or on a CPU under Triton's interpreter."""
    is_interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    has_gpu = torch.cuda.is_available()
    if not has_gpu and not (is_interpreted and kernels.is_installed()):
        yield skipped(NAME, "no GPU here: the scan runs in plain torch")
    elif not kernels.is_installed():
        yield warned(NAME, "mamba_ssm is not installed: the GPU runs the plain torch scan, slower", "run `make gpu`")
    else:
        yield compare_scans(torch.device("cuda" if has_gpu else "cpu"))


def compare_scans(device: torch.device) -> Check:
    """One small scan by both backends."""
    inputs, began = draw_case(device), time.monotonic()
    try:
        found, state = kernels.scan_chunks(inputs, CHUNK, wants_state=True)
    except Exception as error:  # noqa: BLE001  (compilers raise errors of their own kinds: each one is told)
        text = " ".join(str(error).split())[:300]
        return failed(
            NAME, f"mamba_ssm's scan does not run: {type(error).__name__}: {text}",
            "reinstall the kernels for this torch and CUDA (`make gpu`), or set model.backend=torch",
        )  # fmt: skip
    expected, expected_state = scan.scan_chunks(inputs, CHUNK, wants_state=True)
    assert state is not None and expected_state is not None
    worst = max(_compare(found, expected), _compare(state, expected_state))
    if not worst <= TOLERANCE:  # nan is no agreement either
        return failed(
            NAME, f"mamba_ssm's scan differs from plain torch by {worst:.1e} (at most {TOLERANCE:.0e} expected)",
            "reinstall the kernels for this torch and CUDA (`make gpu`), or set model.backend=torch",
        )  # fmt: skip
    more = "" if kernels.has_convolution() else "; causal_conv1d is not installed, torch convolves"
    return passed(
        NAME, f"mamba_ssm's scan agrees with plain torch within {worst:.0e} ({time.monotonic() - began:.1f} s){more}"
    )


def draw_case(device: torch.device) -> scan.ScanInputs:
    """What drives a small scan, the same on every machine."""
    draw = torch.Generator().manual_seed(FRAMES)
    batch, heads, width, state = 2, 2, 16, 16

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw).to(device)

    return scan.ScanInputs(
        x=normal(batch, FRAMES, heads, width),
        dt=torch.rand(batch, FRAMES, heads, generator=draw).to(device),
        a=(-torch.rand(heads, generator=draw) * 4).to(device),
        b=normal(batch, FRAMES, state),
        c=normal(batch, FRAMES, state),
        d=normal(heads),
    )


def _compare(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())
