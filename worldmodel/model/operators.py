"""The kernels as operators of torch's own, which torch.compile takes as they are: a compiled pass stays one graph.

Outside of compiled code the kernels' own functions cost the host less. What is computed is the same.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.model import kernels
from worldmodel.model.scan import ScanInputs


def scan_chunks(
    inputs: ScanInputs,
    chunk: int,
    initial: Float[Tensor, "batch head width state"] | None = None,
    *,
    wants_state: bool = False,
) -> tuple[Float[Tensor, "batch time head width"], Float[Tensor, "batch head width state"] | None]:
    """`kernels.scan_chunks`; with a state before or behind the frames, which training has not, it is that itself."""
    if initial is not None or wants_state:
        return kernels.scan_chunks(inputs, chunk, initial, wants_state=wants_state)
    size = kernels.choose_chunk(chunk, inputs.x.size(1))
    return _scan(inputs.x, inputs.dt, inputs.a, inputs.b, inputs.c, inputs.d, size), None


def convolve(
    frames: Float[Tensor, "batch time channel"],
    weight: Float[Tensor, "channel kernel"],
    bias: Float[Tensor, " channel"],
) -> Float[Tensor, "batch time channel"]:
    """`kernels.convolve`."""
    y: Tensor = _convolve(frames, weight, bias)
    return y


@torch.library.custom_op("worldmodel::scan", mutates_args=())
def _scan(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, chunk: int) -> Tensor:
    forward = kernels.import_scan()._mamba_chunk_scan_combined_fwd
    y: Tensor = forward(x, dt, a, b.unsqueeze(2), c.unsqueeze(2), chunk, D=d)[0]
    return y.contiguous()


@torch.library.custom_op("worldmodel::scan_backward", mutates_args=())
def _scan_backward(
    gradient: Tensor, x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, y: Tensor, chunk: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    backward = kernels.import_scan()._mamba_chunk_scan_combined_bwd
    found = backward(gradient, x, dt, a, b.unsqueeze(2), c.unsqueeze(2), y, chunk, D=d)
    to_x, to_dt, to_a, to_b, to_c, to_d = (
        part.to(own.dtype).reshape(own.shape).contiguous()
        for part, own in zip(found[:6], (x, dt, a, b, c, d), strict=True)
    )
    return to_x, to_dt, to_a, to_b, to_c, to_d


@_scan.register_fake
def _(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, chunk: int) -> Tensor:
    return x.new_empty(x.shape)


@_scan_backward.register_fake
def _(
    gradient: Tensor, x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, y: Tensor, chunk: int
) -> tuple[Tensor, ...]:
    return tuple(own.new_empty(own.shape) for own in (x, dt, a, b, c, d))


def _keep_scan(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[object, ...], output: Tensor) -> None:
    *tensors, ctx.chunk = inputs  # type: ignore[attr-defined]
    ctx.save_for_backward(*tensors, output)  # type: ignore[arg-type]


def _return_scan(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return *_scan_backward(gradient, *ctx.saved_tensors, ctx.chunk), None  # type: ignore[attr-defined]


_scan.register_autograd(_return_scan, setup_context=_keep_scan)


def _import_convolution() -> Any:
    return kernels.import_convolution().causal_conv1d_fn


@torch.library.custom_op("worldmodel::convolve", mutates_args=())
def _convolve(frames: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    y: Tensor = _import_convolution()(frames.contiguous().mT, weight, bias, activation="silu")
    return y.mT.contiguous()


@torch.library.custom_op("worldmodel::convolve_backward", mutates_args=())
def _convolve_backward(gradient: Tensor, frames: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    own = [tensor.detach().requires_grad_() for tensor in (frames.contiguous().mT, weight, bias)]
    with torch.enable_grad():  # of its one autograd function: no other operation in here would be differentiated
        y = _import_convolution()(*own, activation="silu")
    found = torch.autograd.grad(y, own, gradient.contiguous().mT)
    return found[0].mT.contiguous(), found[1].contiguous(), found[2].contiguous()


@_convolve.register_fake
def _(frames: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return frames.new_empty(frames.shape)


@_convolve_backward.register_fake
def _(gradient: Tensor, frames: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    return tuple(own.new_empty(own.shape) for own in (frames, weight, bias))


def _keep_convolution(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _return_convolution(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, ...]:
    found: tuple[Tensor, ...] = _convolve_backward(gradient, *ctx.saved_tensors)  # type: ignore[attr-defined]
    return found


_convolve.register_autograd(_return_convolution, setup_context=_keep_convolution)
