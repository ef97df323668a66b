"""The causal depthwise convolution and its SiLU in plain torch: shifted multiply-adds, both ways.

On CPUs this is several times faster than conv1d; its own backward pass adds in place what autograd would pad, copy and
add for every tap.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def convolve(
    frames: Float[Tensor, "batch time channel"],
    weight: Float[Tensor, "channel kernel"],
    bias: Float[Tensor, " channel"],
) -> Float[Tensor, "batch time channel"]:
    """silu(y), y[t] = bias + sum over k of weight[:, -1 - k] * frames[t - k], as if zeros came before the first frame.

    Computed in the type of `frames`.
    """
    if torch.compiler.is_compiling():
        return _convolve_plainly(frames, weight, bias)
    taps = weight.mT.to(frames.dtype).contiguous()
    y: Tensor = _Convolution.apply(frames, taps, bias.to(frames.dtype))  # type: ignore[no-untyped-call]
    return y


def _convolve_plainly(frames: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The formula, for a compiler. Sums are in the type of `weight`."""
    kernel, length = weight.size(1), frames.size(1)
    padded = F.pad(frames, (0, 0, kernel - 1, 0))
    mixed = bias + sum(padded[:, tap : tap + length] * weight[:, tap] for tap in range(kernel))
    return F.silu(mixed).to(frames.dtype)


class _Convolution(torch.autograd.Function):
    """`taps` (kernel, channel): the last one meets the newest frame."""

    @staticmethod
    def forward(ctx: Any, frames: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
        mixed = torch.addcmul(bias, frames, taps[-1])
        for shift, tap in _earlier(taps, frames):
            mixed[:, shift:].addcmul_(frames[:, :-shift], tap)
        ctx.save_for_backward(frames, taps, mixed)
        return F.silu(mixed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        frames, taps, mixed = ctx.saved_tensors
        gradient = torch.ops.aten.silu_backward(gradient, mixed)
        to_frames, to_taps = gradient * taps[-1], torch.zeros_like(taps)
        to_taps[-1] = (gradient * frames).sum((0, 1))
        for shift, tap in _earlier(taps, frames):
            to_frames[:, :-shift].addcmul_(gradient[:, shift:], tap)
            to_taps[-1 - shift] = (gradient[:, shift:] * frames[:, :-shift]).sum((0, 1))
        return to_frames, to_taps, gradient.sum((0, 1))


def _earlier(taps: Tensor, frames: Tensor) -> list[tuple[int, Tensor]]:
    """The taps that meet a frame before the newest one, with how far it lies back."""
    return [(shift, taps[-1 - shift]) for shift in range(1, min(len(taps), frames.size(1)))]
