"""The middle of a Mamba-2 block on a GPU, over sequences of at most 64 frames: from `in_proj` to `out_proj`.

Three Triton kernels each way. A sequence's frames stay on the chip, so what is read and written is little more than
inputs and outputs: 19 KB a frame and layer of 768 channels, where plain torch takes 150.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from worldmodel.model.norm import EPSILON

LONGEST, WIDEST = 64, 128
"""Frames of a sequence, and width of a head or of its state, that one program holds."""
CHANNELS = 32
"""Channels of the convolution that a program takes."""
HEADS = 4
"""Heads that a program of the backward scan takes one after another; it adds up their gradients of b and c."""
GATE_PROGRAMS = 432
"""Programs of the gated norm's backward pass: four for each multiprocessor of an A100."""


class Shape(NamedTuple):
    """Sizes of a block: heads of `width` channels with `state` numbers of state each."""

    heads: int
    width: int
    state: int

    @property
    def inner(self) -> int:
        """Channels that are gated and scanned."""
        return self.heads * self.width

    @property
    def mixed(self) -> int:
        """Channels of the convolution: those of x, b and c."""
        return self.inner + 2 * self.state


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
@cache
def is_installed() -> bool:
    """True if Triton can be imported."""
    return find_spec("triton") is not None


def fits(shape: Shape, frames: int) -> bool:
    """True if the kernels take sequences of so many frames."""
    return frames <= LONGEST and max(shape.width, shape.state) <= WIDEST and is_installed()


def mix_frames(
    projected: Float[Tensor, "batch time column"],
    conv_weight: Float[Tensor, "mixed kernel"],
    conv_bias: Float[Tensor, " mixed"],
    dt_bias: Float[Tensor, " head"],
    a_log: Float[Tensor, " head"],
    d: Float[Tensor, " head"],
    norm: Float[Tensor, " inner"],
    shape: Shape,
) -> Float[Tensor, "batch time inner"]:
    """Convolve, scan, gate and normalise. Columns: gate, x, b, c, raw step sizes; more of them are padding."""
    y: Tensor = _Mix.apply(projected, conv_weight, conv_bias, dt_bias, a_log, d, norm, shape)  # type: ignore[no-untyped-call]
    return y


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, projected: Tensor, *rest: Any) -> Tensor:
        *weights, shape = rest
        projected = projected.contiguous()
        weights = [weight.contiguous() for weight in weights]
        xbc, y = _mix_forward(projected, weights, shape)
        ctx.save_for_backward(projected, xbc, y, *weights)
        ctx.shape = shape
        return _gate_forward(y, projected, weights[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        projected, xbc, y, *weights = ctx.saved_tensors
        to_projected = torch.empty_like(projected)
        to_y, to_norm = _gate_backward(gradient.contiguous(), y, projected, weights[-1], to_projected)
        others = _mix_backward(to_y, projected, xbc, weights, ctx.shape, to_projected)
        return to_projected, *others, to_norm, None


def _mix_forward(projected: Tensor, weights: list[Tensor], shape: Shape) -> tuple[Tensor, Tensor]:
    from worldmodel.model import triton_kernels as kernels

    conv_weight, conv_bias, dt_bias, a_log, d, _ = weights
    batch, time, columns = projected.shape
    xbc = projected.new_empty(batch, time, shape.mixed)
    y = projected.new_empty(batch, time, shape.inner)
    length = _raise(time)
    kernels.convolve_forward[batch, -(-shape.mixed // CHANNELS)](
        projected[..., shape.inner :], conv_weight, conv_bias, xbc, columns, time, shape.mixed,
        K=conv_weight.size(1), L=length, BLOCK=CHANNELS,
    )  # fmt: skip
    kernels.scan_forward[(batch * shape.heads,)](
        xbc, projected[..., shape.inner + shape.mixed :], dt_bias, a_log, d, y, columns, time, shape.mixed,
        shape.inner, shape.heads, **_sizes(shape, length),
    )  # fmt: skip
    return xbc, y


def _mix_backward(
    to_y: Tensor, projected: Tensor, xbc: Tensor, weights: list[Tensor], shape: Shape, to_projected: Tensor
) -> list[Tensor]:
    """Fills `to_projected` behind the gate; returns the gradients of all weights but the norm's."""
    from worldmodel.model import triton_kernels as kernels

    conv_weight, conv_bias, dt_bias, a_log, d, _ = weights
    (batch, time, columns), length = projected.shape, _raise(projected.size(1))
    groups, taps, ends = -(-shape.heads // HEADS), conv_weight.size(1), shape.inner + shape.mixed
    to_projected[..., ends + shape.heads :].zero_()
    to_x = torch.empty_like(to_y)
    shared = to_y.new_empty(batch, groups, time, 2 * shape.state, dtype=torch.float32)
    parts = to_y.new_empty(3, batch, shape.heads, dtype=torch.float32)
    kernels.scan_backward[batch, groups](
        xbc, projected[..., ends:], dt_bias, a_log, d, to_y, to_x, to_projected[..., ends:], shared, parts, columns,
        time, shape.mixed, shape.inner, shape.heads, batch,
        EACH=HEADS, num_warps=8, num_stages=1, **_sizes(shape, length),
    )  # fmt: skip
    of_taps = to_y.new_empty(batch, taps + 1, shape.mixed, dtype=torch.float32)
    kernels.convolve_backward[batch, -(-shape.mixed // CHANNELS)](
        projected[..., shape.inner :], conv_weight, conv_bias, to_x, shared, to_projected[..., shape.inner :], of_taps,
        columns, time, shape.mixed, shape.inner, groups, K=taps, L=length, BLOCK=CHANNELS, num_warps=8,
    )  # fmt: skip
    to_taps, of_heads = of_taps.sum(0), parts.sum(1)
    return [to_taps[:-1].mT, to_taps[-1], *of_heads.unbind()]


def _gate_forward(y: Tensor, projected: Tensor, norm: Tensor) -> Tensor:
    from worldmodel.model import triton_kernels as kernels

    out, width = torch.empty_like(y), y.size(-1)
    kernels.gate_forward[(y.numel() // width,)](
        y, projected, norm, out, projected.size(-1), width, EPSILON, BLOCK=_raise(width)
    )
    return out


def _gate_backward(
    gradient: Tensor, y: Tensor, projected: Tensor, norm: Tensor, to_projected: Tensor
) -> tuple[Tensor, Tensor]:
    """Fills the gate's columns of `to_projected`; returns the gradients of y and of the norm's weight."""
    from worldmodel.model import triton_kernels as kernels

    width = y.size(-1)
    rows = y.numel() // width
    each = -(-rows // min(rows, GATE_PROGRAMS))
    programs = -(-rows // each)
    to_y, parts = torch.empty_like(y), y.new_empty(programs, width, dtype=torch.float32)
    kernels.gate_backward[(programs,)](
        y, projected, norm, gradient, to_y, to_projected, parts, projected.size(-1), rows, width, EPSILON, each,
        BLOCK=_raise(width),
    )  # fmt: skip
    return to_y, parts.sum(0)


def _sizes(shape: Shape, length: int) -> dict[str, int]:
    """What the scans' kernels are compiled for."""
    return {"P": shape.width, "N": shape.state, "L": length, "BP": _raise(shape.width), "BN": _raise(shape.state)}


def _raise(size: int) -> int:
    """The next power of two, at least 16: what matrix products of Triton take."""
    return max(16, 1 << (size - 1).bit_length())
