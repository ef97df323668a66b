"""The Mamba-2 scan ("state space duality") in plain torch: chunks of matrix products, and one frame at a time.

Per head, with state h of shape (width, state), decay rate a < 0, step size dt > 0 and skip weight d
(Dao & Gu 2024, "Transformers are SSMs", arXiv:2405.21060):

    h[t] = exp(a * dt[t]) * h[t-1] + dt[t] * outer(x[t], b[t])        y[t] = h[t] @ c[t] + d * x[t]

Axes: batch B, time T, head H, width P (of a head), state N. There is one group: all heads share b and c.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


class ScanInputs(NamedTuple):
    """What drives a scan over T frames. Matrix products run in the type of `x`, decays and states in that of `dt`."""

    x: Float[Tensor, "batch time head width"]
    dt: Float[Tensor, "batch time head"]
    """Step sizes; float32 or better."""
    a: Float[Tensor, " head"]
    """Decay rates per unit of dt, negative."""
    b: Float[Tensor, "batch time state"]
    c: Float[Tensor, "batch time state"]
    d: Float[Tensor, " head"]
    """How much of x passes straight to y."""


def scan_chunks(
    inputs: ScanInputs,
    chunk: int,
    initial: Float[Tensor, "batch head width state"] | None = None,
    *,
    keep: int | None = None,
    wants_state: bool = False,
) -> tuple[Float[Tensor, "batch keep head width"], Float[Tensor, "batch head width state"] | None]:
    """Outputs y of the last `keep` frames (None: of all) and, where `wants_state`, the state after the last one.

    The result does not depend on `chunk` (frames per matrix product), nor need it divide T. Without `initial` the scan
    starts from zeros. Decays are exponentials of differences of a cumulated sum, which within a chunk of 64 lose about
    a digit of float32 against a segment sum.
    """
    length = inputs.x.size(1)
    size, keep = length if length <= 2 * chunk else chunk, keep or length  # two chunks: rather one, without states
    x, b, c = _cut(inputs.x, size), _cut(inputs.b, size), _cut(inputs.c, size)
    dt = _cut(inputs.dt, size).transpose(2, 3).contiguous()
    decay = _add_up(dt * inputs.a[:, None])
    rows = keep if x.size(1) == 1 else size
    c = c[:, :, -rows:]
    mix = _mix if torch.compiler.is_compiling() else _Mixing.apply
    y: Tensor = mix(x, dt, decay, b, c, inputs.d)  # type: ignore[no-untyped-call]
    if x.size(1) == 1 and initial is None and not wants_state:
        return y.flatten(1, 2), None
    start = None if initial is None else initial.permute(0, 3, 1, 2).to(dt.dtype)
    entering, final = _pass_states(_gather_gains(x, dt, decay, b), decay[..., -1].exp(), start)
    carried = (c @ entering.flatten(3)).view(y.shape)
    y = y + carried * decay[..., -rows:].exp().to(c.dtype).transpose(2, 3).unsqueeze(-1)
    return y.flatten(1, 2)[:, :length][:, -keep:], final.permute(0, 2, 3, 1) if wants_state else None


def step_frame(
    inputs: ScanInputs, state: Float[Tensor, "batch head width state"]
) -> tuple[Float[Tensor, "batch 1 head width"], Float[Tensor, "batch head width state"]]:
    """The scan over one frame (T = 1): the recurrence itself, at a cost that no history adds to."""
    x, dt, b, c = (t.squeeze(1) for t in (inputs.x, inputs.dt, inputs.b, inputs.c))
    gain = (dt.unsqueeze(-1) * x).unsqueeze(-1) * b[:, None, None, :]
    state = state * (dt * inputs.a).exp()[:, :, None, None] + gain
    y = (state * c[:, None, None, :]).sum(-1) + inputs.d[:, None] * x
    return y.to(inputs.x.dtype).unsqueeze(1), state


def _cut(t: Tensor, size: int) -> Tensor:
    """(B, T, ...) to (B, chunks, size, ...). The last chunk is filled with zeros: dt 0 neither decays nor adds."""
    missing = -t.size(1) % size
    padded = F.pad(t, (0, 0) * (t.dim() - 2) + (0, missing)) if missing else t
    return padded.reshape(t.size(0), -1, size, *t.shape[2:])


def _add_up(t: Tensor) -> Tensor:
    """Cumulated sum over the last axis."""
    if not torch.compiler.is_compiling() and not torch.are_deterministic_algorithms_enabled():
        return t.cumsum(-1)
    past = torch.ones(t.size(-1), t.size(-1), dtype=torch.bool, device=t.device).tril()
    return torch.where(past, t.unsqueeze(-2), 0).sum(-1)  # CUDA's cumsum is not deterministic


def _mix(x: Tensor, dt: Tensor, decay: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """`_Mixing` as a formula, for a compiler."""
    rows, length = c.size(2), dt.size(-1)
    ahead = length - rows
    past = torch.ones(rows, length, dtype=torch.bool, device=x.device).tril(ahead)
    here = torch.eye(length, dtype=torch.bool, device=x.device)[ahead:]
    fade = torch.where(past, decay[..., ahead:].unsqueeze(-1) - decay.unsqueeze(-2), -torch.inf).exp()
    overlap = (c @ b.mT).unsqueeze(2)
    weights = fade * dt.unsqueeze(-2) * overlap + torch.where(here, d[:, None, None], 0)
    return (weights.to(x.dtype) @ x.transpose(2, 3)).transpose(2, 3)


class _Mixing(torch.autograd.Function):
    """What frames add to the outputs of their own chunk: one matrix product per chunk and head.

    y[l] = d * x[l] + sum over s <= l of exp(decay[l] - decay[s]) * dt[s] * (c[l] . b[s]) * x[s]

    with x (B, chunks, L, H, P), dt and decay (B, chunks, H, L), b (B, chunks, L, N), c (B, chunks, R, N) of the last R
    frames of each, and y (B, chunks, R, H, P). dt is folded into the weights, because they are smaller than x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, dt: Tensor, decay: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        ahead = dt.size(-1) - c.size(2)
        fade = decay[..., ahead:].unsqueeze(-1) - decay.unsqueeze(-2)
        future = torch.full(fade.shape[-2:], -torch.inf, dtype=fade.dtype, device=fade.device).triu(ahead + 1)
        fade = fade.add_(future).exp_().mul_(dt.unsqueeze(-2)).to(x.dtype)
        weights = fade * (c @ b.mT).unsqueeze(2)
        present = weights.diagonal(ahead, -2, -1)
        own = present.clone()
        present.add_(d[:, None])
        ctx.save_for_backward(x, dt, b, c, d, fade, weights, own)
        return (weights @ x.transpose(2, 3)).transpose(2, 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        x, dt, b, c, d, fade, weights, own = ctx.saved_tensors
        ahead, gradient = dt.size(-1) - c.size(2), gradient.transpose(2, 3).contiguous()
        to_x = (weights.mT @ gradient).transpose(2, 3)
        to_weights = gradient @ x.transpose(2, 3).mT
        present = to_weights.diagonal(ahead, -2, -1)
        to_d = present.sum((0, 1, 3), dtype=d.dtype)
        flow = to_weights * weights  # the gradient of every exponent
        flow.diagonal(ahead, -2, -1).copy_(present * own)
        received = flow.sum(-2, dtype=dt.dtype)
        to_decay = -received
        to_decay[..., ahead:] += flow.sum(-1, dtype=dt.dtype)
        to_overlap = to_weights.mul_(fade).sum(2)
        to_dt = received / dt.clamp(min=torch.finfo(dt.dtype).tiny)
        return to_x, to_dt, to_decay, to_overlap.mT @ c, to_overlap @ b, to_d


def _gather_gains(x: Tensor, dt: Tensor, decay: Tensor, b: Tensor) -> Tensor:
    """What each chunk adds to the state at its end: (B, chunks, N, H, P)."""
    weight = ((decay[..., -1:] - decay).exp() * dt).to(x.dtype).transpose(2, 3)
    gains = b.mT @ (x * weight.unsqueeze(-1)).flatten(3)
    return gains.view(*gains.shape[:-1], *x.shape[3:])


def _pass_states(gains: Tensor, decays: Tensor, start: Tensor | None) -> tuple[Tensor, Tensor]:
    """The state entering each chunk (B, chunks, N, H, P) and the one leaving the last (B, N, H, P)."""
    state = torch.zeros_like(gains[:, 0], dtype=decays.dtype) if start is None else start
    entering = []
    for gain, decay in zip(gains.unbind(1), decays.unbind(1), strict=True):
        entering.append(state.to(gains.dtype))
        state = torch.addcmul(gain.to(state.dtype), state, decay[:, None, :, None])
    return torch.stack(entering, 1), state
