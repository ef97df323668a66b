"""Runs our Triton kernels for short sequences on a CPU (TRITON_INTERPRET=1) and compares them with plain torch.

A process of its own, as `interpret_kernels.py`. Prints a line of JSON: case to name to the largest difference, relative
to the largest value.
"""

from __future__ import annotations

import json

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.model.interpret_kernels import measure
from worldmodel.model.config import ModelConfig
from worldmodel.model.convolution import convolve
from worldmodel.model.mamba2 import Mamba2Layer
from worldmodel.model.norm import normalise
from worldmodel.model.scan import ScanInputs, scan_chunks
from worldmodel.model.short_scan import Shape, mix_frames

CASES = {
    "one frame": (1, Shape(2, 16, 16)),
    "a window": (10, Shape(3, 16, 8)),
    "odd sizes": (33, Shape(5, 24, 20)),
    "64 frames, heads that fill no group": (64, Shape(5, 16, 16)),
}
NAMES = ("projected", "taps", "bias", "dt_bias", "a_log", "d", "norm")


def draw_leaves(frames: int, shape: Shape) -> list[Tensor]:
    draw = torch.Generator().manual_seed(frames)
    columns = -(-(shape.inner + shape.mixed + shape.heads) // 8) * 8
    sizes = [(2, frames, columns), (shape.mixed, 4), (shape.mixed,), *[(shape.heads,)] * 3, (shape.inner,)]
    return [(torch.randn(size, generator=draw) / 2).requires_grad_() for size in sizes]


def mix_plainly(leaves: list[Tensor], shape: Shape) -> Tensor:
    projected, taps, bias, dt_bias, a_log, d, norm = leaves
    widths = [shape.inner, shape.mixed, shape.heads, projected.size(-1) - shape.inner - shape.mixed - shape.heads]
    gate, mixed, dt, _ = torch.split(projected, widths, -1)
    x, b, c = torch.split(convolve(mixed, taps, bias), [shape.inner, shape.state, shape.state], -1)
    heads = x.unflatten(-1, (shape.heads, shape.width))  # type: ignore[no-untyped-call]
    y, _ = scan_chunks(ScanInputs(x=heads, dt=F.softplus(dt + dt_bias), a=-a_log.exp(), b=b, c=c, d=d), 32)
    return normalise(y.flatten(2) * F.silu(gate), norm)


def compare(frames: int, shape: Shape) -> dict[str, float]:
    """Differences of the output and of all gradients."""
    leaves = draw_leaves(frames, shape)
    ours, expected = mix_frames(*leaves, shape), mix_plainly(leaves, shape)
    factor = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    found, wanted = (torch.autograd.grad((y * factor).sum(), leaves) for y in (ours, expected))
    gradients = {name: measure([a], [b]) for name, a, b in zip(NAMES, found, wanted, strict=True)}
    return {"y": measure([ours], [expected]), **gradients}


def compare_layers() -> dict[str, float]:
    """Differences of a whole layer, whose last frames alone are kept, and of its gradients."""
    config = ModelConfig(d_model=32, headdim=16, d_state=16, backend="kernels")
    layer, found = Mamba2Layer(config), []
    x = torch.randn(2, 12, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    for backend in ("kernels", "torch"):
        layer.mamba.backend = backend  # type: ignore[assignment]
        y, _ = layer(x, None, keep=3, wants_state=False)
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])])
    assert found[0][0].shape == (2, 3, 32)
    return {"layer": measure(*found)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({**{name: compare(*case) for name, case in CASES.items()}, "layer": compare_layers()}))
