"""Root-mean-square normalisation, alone and of a gated value on its way out of a block, with their backward passes.

Each is one autograd function: a chain of elementwise passes costs as much as the matrix product beside it, so nothing
is computed twice, and nothing is kept that one pass brings back.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

EPSILON = 1e-5


class RMSNorm(nn.Module):
    """Scales each vector to a root mean square of 1, then by a learned weight (Zhang & Sennrich 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """The scaled vectors: computed in float32 or better; under autocast given in its type, else as computed."""
        device, precise = x.device.type, torch.promote_types(x.dtype, self.weight.dtype)
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else precise
        if torch.compiler.is_compiling():
            return normalise(x.to(precise), self.weight).to(dtype)
        y: Tensor = _Norm.apply(x.to(precise), self.weight, dtype)  # type: ignore[no-untyped-call]
        return y


def normalise(x: Float[Tensor, "*batch width"], weight: Float[Tensor, " width"]) -> Float[Tensor, "*batch width"]:
    """RMSNorm as a formula, for a compiler: weight * x / sqrt(mean of x^2 + epsilon)."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON) * weight


def project_gated(
    y: Float[Tensor, "*batch inner"],
    gate: Float[Tensor, "*batch inner"],
    norm: Float[Tensor, " inner"],
    matrix: Float[Tensor, "model inner"],
) -> Float[Tensor, "*batch model"]:
    """matrix @ (norm * rms_norm(y * silu(gate))), in the type of `norm` or of `y`, whichever is wider.

    The norm's weight joins the matrix and its scale the narrower output; the product is in the type of `y`.
    """
    if torch.compiler.is_compiling():
        precise = torch.promote_types(y.dtype, norm.dtype)
        gated = normalise(y.to(precise) * F.silu(gate.to(precise)), norm)
        return F.linear(gated.to(y.dtype), matrix.to(y.dtype)).to(precise)
    out: Tensor = _GatedProjection.apply(y, gate, norm, matrix)  # type: ignore[no-untyped-call]
    return out


def _find_scale(x: Tensor, dtype: torch.dtype) -> Tensor:
    """1 / the root mean square of each vector, (..., 1)."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=dtype)
    return torch.rsqrt(length.square() / x.size(-1) + EPSILON)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        scale = _find_scale(x, x.dtype)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        unit = x * scale
        along = unit * gradient
        to_weight = along.flatten(0, -2).sum(0)
        mean = along.mul_(weight).mean(-1, keepdim=True)
        return (gradient * weight).addcmul_(unit, mean, value=-1).mul_(scale), to_weight, None


class _GatedProjection(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, gate: Tensor, norm: Tensor, matrix: Tensor) -> Tensor:
        opening = F.silu(gate)
        gated = y * opening
        scale = _find_scale(gated, torch.promote_types(gated.dtype, norm.dtype))
        out = gated @ (matrix * norm).to(gated.dtype).mT
        ctx.save_for_backward(y, gate, norm, matrix, opening, gated, scale, out)
        return out * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        y, gate, norm, matrix, opening, gated, scale, out = ctx.saved_tensors
        to_scale = (gradient * out).sum(-1, keepdim=True)
        gradient = (gradient * scale).to(y.dtype)
        to_joint = (gradient.flatten(0, -2).mT @ gated.flatten(0, -2)).to(matrix.dtype)
        to_gated = gradient @ (matrix * norm).to(y.dtype)
        pull = to_scale * scale.pow(3) / -y.size(-1)
        to_gated.addcmul_(gated, pull.to(y.dtype))
        to_gate = torch.ops.aten.silu_backward(to_gated * y, gate)
        return to_gated.mul_(opening), to_gate, (to_joint * matrix).sum(0), to_joint * norm
