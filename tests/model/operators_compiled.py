"""Compiles training passes with stand-ins for the kernels' packages, and prints a line of JSON: what was found.

A process of its own: torch.compile does not follow the type checks that the tests put around functions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.model.golden import random_batch
from worldmodel.encoding import EncodingConfig
from worldmodel.model import kernels, mamba2, operators, scan
from worldmodel.model.build import build_model
from worldmodel.model.config import ModelConfig
from worldmodel.model.scan import ScanInputs


class Convolution(torch.autograd.Function):
    """causal_conv1d's function, over (batch, channel, time)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        return compute_convolution(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = torch.func.vjp(compute_convolution, *ctx.saved_tensors)[1](gradient)
        return found


def compute_convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """SiLU of the causal depthwise convolution."""
    y = torch.nn.functional.conv1d(x, weight[:, None], bias, padding=weight.size(1) - 1, groups=len(bias))
    return torch.nn.functional.silu(y[..., : x.size(-1)])


def compute_scan(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The scan, frame by frame; b and c have an axis of groups."""
    state = x.new_zeros(*x[:, 0].shape, b.size(-1))
    found = []
    for t in range(x.size(1)):
        drive = dt[:, t, :, None, None] * x[:, t, ..., None] * b[:, t, :, None]
        state = (a * dt[:, t]).exp()[..., None, None] * state + drive
        found.append((state * c[:, t, :, None]).sum(-1) + d[:, None] * x[:, t])
    return torch.stack(found, 1)


def run_scan(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, chunk: int, D: Tensor) -> tuple[Tensor, ...]:
    """As mamba_ssm's forward pass is called."""
    return (compute_scan(x, dt, a, b, c, D),)


def run_scan_backward(
    gradient: Tensor,
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    y: Tensor,
    chunk: int,
    D: Tensor,
) -> tuple[Tensor, ...]:
    """As mamba_ssm's backward pass is called."""
    found: tuple[Tensor, ...] = torch.func.vjp(compute_scan, x, dt, a, b, c, D)[1](gradient)
    return found


def make_inputs() -> tuple[Tensor, ...]:
    """x, dt, a, b, c and d of a scan, some of them parts of wider tensors."""
    torch.manual_seed(0)
    wide = torch.randn(2, 9, 24)
    x, b, c = wide[..., :12].reshape(2, 9, 3, 4), wide[..., 12:18], wide[..., 18:]
    values = (x, torch.rand(2, 9, 3), -torch.rand(3), b, c, torch.randn(3))
    return tuple(value.detach().requires_grad_() for value in values)


def find_difference(first: Callable[..., Tensor], second: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> float:
    """The largest difference between two functions' values and gradients."""
    gradient = torch.randn_like(first(*inputs))
    found = [(f(*inputs), *torch.autograd.grad(f(*inputs), inputs, gradient)) for f in (first, second)]
    return max(float((one - other).abs().max().detach()) for one, other in zip(*found, strict=True))


def count_breaks(config: ModelConfig) -> int:
    """Graph breaks of a training pass; 0 where it compiles as one graph and gives what the plain pass does."""
    layout = EncodingConfig().layout
    model = build_model(config, layout)
    inputs, *_ = random_batch(layout, batch=3, positions=9)
    explained = torch._dynamo.explain(model)(inputs, wants_state=False)  # type: ignore[no-untyped-call]
    own = [str(node.target) for graph in explained.graphs for node in graph.graph.nodes]
    for name in ("worldmodel.scan", "worldmodel.convolve"):
        assert sum(name in target for target in own) == config.n_layers * (config.backend == "kernels"), name
    if explained.graph_break_count:
        return int(explained.graph_break_count)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    both = [run(inputs, wants_state=False)[0] for run in (model, compiled)]
    for term, values in both[0].numbers.items():
        torch.testing.assert_close(both[1].numbers[term], values)
    both[1].numbers["velocity"].sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "mamba" in name)
    return 0


def main() -> dict[str, Any]:
    """What was found."""
    small: dict[str, Any] = {"d_model": 32, "d_state": 8, "headdim": 16, "n_layers": 2, "chunk_size": 4, "dropout": 0.0}
    found: dict[str, Any] = {"torch": count_breaks(ModelConfig(**small))}
    fake = SimpleNamespace(_mamba_chunk_scan_combined_fwd=run_scan, _mamba_chunk_scan_combined_bwd=run_scan_backward)
    convolution = SimpleNamespace(causal_conv1d_fn=lambda x, w, b, activation: Convolution.apply(x, w, b))
    kernels.import_scan, kernels.import_convolution = lambda: fake, lambda: convolution  # type: ignore[assignment]
    inputs = make_inputs()
    found["scan"] = find_difference(
        lambda *own: operators.scan_chunks(_name(own), 4)[0], lambda *own: scan.scan_chunks(_name(own), 4)[0], inputs
    )
    torch.library.opcheck(operators._scan, (*inputs, 4))
    taps = (torch.randn(2, 9, 8, requires_grad=True), *(torch.randn(*s, requires_grad=True) for s in ((8, 4), (8,))))
    found["convolution"] = find_difference(operators.convolve, mamba2.convolve, taps)
    torch.library.opcheck(operators._convolve, taps)
    kernels.is_installed = kernels.has_convolution = lambda: True  # type: ignore[assignment]
    os.environ["TRITON_INTERPRET"] = "1"
    kernels.scan_chunks = operators.scan_chunks  # outside of compiled code too: the stand-in has no other
    found["kernels"] = count_breaks(ModelConfig(**small, backend="kernels"))
    return found


def _name(own: tuple[Tensor, ...]) -> ScanInputs:
    return ScanInputs(**dict(zip(("x", "dt", "a", "b", "c", "d"), own, strict=True)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(main()))
