"""The GPU's kernels against plain torch, forward and backward: importable, and right."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from worldmodel.doctor.check import Check, failed, passed, skipped, warned
from worldmodel.model import kernels, scan
from worldmodel.model.config import ModelConfig
from worldmodel.model.mamba2 import Mamba2, Mamba2Layer

NAME = "kernels"
TOLERANCES = {torch.float32: 1e-2, torch.bfloat16: 5e-2}
"""Largest differences, relative to the largest value: Triton multiplies float32 in TF32 on a GPU."""
FRAMES, CHUNK = 37, 16
"""Frames of the scan, which the chunk does not divide."""
REMEDY = "reinstall the kernels for this torch and CUDA (`make gpu`), or set model.backend=torch"


def check_kernels() -> Iterator[Check]:
    """mamba_ssm's scan where it would be used: on a GPU, or on a CPU under Triton's interpreter."""
    is_interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    has_gpu = torch.cuda.is_available()
    if not has_gpu and not (is_interpreted and kernels.is_installed()):
        yield skipped(NAME, "no GPU here: the scan runs in plain torch")
    elif not kernels.is_installed():
        yield warned(NAME, "mamba_ssm is not installed: the GPU runs the plain torch scan, slower", "run `make gpu`")
    else:
        yield compare_kernels(torch.device("cuda", 0) if has_gpu else torch.device("cpu"))


def compare_kernels(device: torch.device) -> Check:
    """A small scan by both backends; on a GPU also a whole block, whose convolution reads a slice of wider rows."""
    began, worst = time.monotonic(), 0.0
    has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    for dtype in (torch.float32, torch.bfloat16)[: 1 + has_bfloat16]:
        try:
            found = compare_scans(device, dtype)
            if device.type == "cuda":
                found |= compare_blocks(device, dtype) | compare_layers(device, dtype)
        except Exception as error:  # noqa: BLE001  (compilers raise errors of their own kinds)
            text = " ".join(str(error).split())[:300]
            return failed(NAME, f"mamba_ssm's kernels do not run: {type(error).__name__}: {text}", REMEDY)
        for what, difference in found.items():
            if not difference <= TOLERANCES[dtype]:  # nan is no agreement either
                limit = f"at most {TOLERANCES[dtype]:.0e} expected"
                text = f"{what} differs from plain torch by {difference:.1e} in {str(dtype)[6:]} ({limit})"
                return failed(NAME, text, REMEDY)
        worst = max(worst, *found.values())
    more = "" if kernels.has_convolution() else "; causal_conv1d is not installed, torch convolves"
    seconds = time.monotonic() - began
    return passed(NAME, f"mamba_ssm's kernels agree with plain torch within {worst:.0e} ({seconds:.1f} s){more}")


def compare_scans(device: torch.device, dtype: torch.dtype = torch.float32) -> dict[str, float]:
    """Differences of a scan's outputs, final state and all gradients."""
    found: list[dict[str, Tensor]] = []
    for scan_chunks in (kernels.scan_chunks, scan.scan_chunks):
        inputs = draw_case(device, dtype)
        leaves = {name: value.requires_grad_() for name, value in inputs._asdict().items()}
        y, state = scan_chunks(inputs, CHUNK, wants_state=True)
        assert state is not None
        found.append(_differentiate({"y": y, "state": state}, leaves))
    return {f"the scan's {name}": _compare(found[0][name], found[1][name]) for name in found[0]}


def compare_blocks(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Differences of a block's outputs and of its parameters' gradients."""
    config = ModelConfig(dropout=0.0)
    frames = 3 * config.chunk_size
    draw = torch.Generator().manual_seed(FRAMES)
    u, found = torch.randn(2, frames, config.d_model, generator=draw).to(device), list[dict[str, Tensor]]()
    blocks = [Mamba2(replace(config, backend=backend)).to(device) for backend in ("kernels", "torch")]
    for block in blocks:
        block.load_state_dict(blocks[0].state_dict())
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            y, _ = block(u, None, keep=frames, wants_state=True)
        found.append(_differentiate({"y": y}, dict(block.named_parameters())))
    return {f"the block's {name}": _compare(found[0][name], found[1][name]) for name in found[0]}


def compare_layers(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Differences of a layer over a short sequence, which has kernels of its own where no state is wanted."""
    config = ModelConfig(dropout=0.0, backend="torch")
    layer, draw = Mamba2Layer(config).to(device), torch.Generator().manual_seed(FRAMES)
    u, found = torch.randn(2, FRAMES, config.d_model, generator=draw).to(device), list[dict[str, Tensor]]()
    for wants_state in (False, True):
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            y, _ = layer(u, None, keep=FRAMES, wants_state=wants_state)
        found.append(_differentiate({"y": y}, dict(layer.named_parameters())))
    return {f"the short layer's {name}": _compare(found[0][name], found[1][name]) for name in found[0]}


def draw_case(device: torch.device, dtype: torch.dtype = torch.float32) -> scan.ScanInputs:
    """Inputs of a small scan, the same on every machine; `dtype`: of x, b and c."""
    draw = torch.Generator().manual_seed(FRAMES)
    batch, heads, width, state = 2, 2, 16, 16

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw).to(device, dtype)

    return scan.ScanInputs(
        x=normal(batch, FRAMES, heads, width),
        dt=torch.rand(batch, FRAMES, heads, generator=draw).to(device),
        a=(-torch.rand(heads, generator=draw) * 4).to(device),
        b=normal(batch, FRAMES, state),
        c=normal(batch, FRAMES, state),
        d=normal(heads).float(),
    )


def _differentiate(ends: dict[str, Tensor], leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """The ends and, of the sum of their squares, the gradients."""
    total = torch.stack([end.float().square().sum() for end in ends.values()]).sum()
    gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    named = zip(leaves, gradients, strict=True)
    return ends | {f"gradient of {name}": value for name, value in named if value is not None}


def _compare(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    found, expected = found.detach().float(), expected.detach().float()
    return float((found - expected).abs().max() / expected.abs().max())
