"""The causal depthwise convolution in plain torch: shifted multiply-adds, with a backward pass of the same kind.

On CPUs this is several times faster than conv1d; its own backward pass adds in place what autograd would pad, copy and
add for every tap.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def convolve(
    frames: Float[Tensor, "batch padded channel"],
    taps: Float[Tensor, "kernel channel"],
    bias: Float[Tensor, " channel"],
) -> Float[Tensor, "batch time channel"]:
    """y[t] = bias + sum over k of taps[k] * frames[t + k]: the last tap meets the newest frame.

    `frames` begin with the kernel - 1 frames before the first output. All have one type, in which it is computed.
    """
    y: Tensor = _Convolution.apply(frames, taps, bias)  # type: ignore[no-untyped-call]
    return y


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, frames: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(frames, taps)
        length = frames.size(1) - len(taps) + 1
        y = bias.repeat(frames.size(0), length, 1)
        for shift, tap in enumerate(taps):
            y.addcmul_(frames[:, shift : shift + length], tap)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        frames, taps = ctx.saved_tensors
        to_frames, to_taps, length = torch.zeros_like(frames), torch.empty_like(taps), gradient.size(1)
        for shift, tap in enumerate(taps):
            to_frames[:, shift : shift + length].addcmul_(gradient, tap)
            product = gradient * frames[:, shift : shift + length]
            to_taps[shift] = product.sum((0, 1))
        return to_frames, to_taps, gradient.sum((0, 1))
