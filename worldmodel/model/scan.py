"""The Mamba-2 scan ("state space duality") in plain torch: chunks of matrix products, and one frame at a time.

Per head, with state h of shape (width, state), decay rate a < 0, step size dt > 0 and skip weight d
(Dao & Gu 2024, "Transformers are SSMs", arXiv:2405.21060):

    h[t] = exp(a * dt[t]) * h[t-1] + dt[t] * outer(x[t], b[t])        y[t] = h[t] @ c[t] + d * x[t]

Axes: batch B, time T, head H, width P (of a head), state N. There is one group: all heads share b and c.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ScanInputs:
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
    wants_state: bool = False,
) -> tuple[Float[Tensor, "batch time head width"], Float[Tensor, "batch head width state"] | None]:
    """Outputs y of all T frames and, where `wants_state`, the state after the last one.

    The result does not depend on `chunk` (frames per matrix product), nor need it divide T. Without `initial` the scan
    starts from zeros. Decays are exponentials of differences of a cumulated sum, which within a chunk of 32 lose about
    a digit of float32 against a segment sum.
    """
    length, size = inputs.x.size(1), min(chunk, inputs.x.size(1))
    x, b, c = _cut(inputs.x, size), _cut(inputs.b, size), _cut(inputs.c, size)
    dt = _cut(inputs.dt, size).transpose(2, 3).contiguous()
    decay = (dt * inputs.a[:, None]).cumsum(-1)
    mixing = _mix_frames(dt, decay, c @ b.mT, inputs.d)
    y = (mixing.to(x.dtype) @ x.transpose(2, 3)).transpose(2, 3)
    if x.size(1) == 1 and initial is None and not wants_state:
        return y.flatten(1, 2), None
    start = None if initial is None else initial.permute(0, 3, 1, 2).to(dt.dtype)
    entering, final = _pass_states(_gather_gains(x, dt, decay, b), decay[..., -1].exp(), start)
    carried = (c @ entering.flatten(3)).view(x.shape)
    y = y + carried * decay.exp().to(c.dtype).transpose(2, 3).unsqueeze(-1)
    return y.flatten(1, 2)[:, :length], final.permute(0, 2, 3, 1) if wants_state else None


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


def _mix_frames(dt: Tensor, decay: Tensor, overlap: Tensor, d: Tensor) -> Tensor:
    """How much of frame s reaches frame l within a chunk: (B, chunks, H, l, s), zero for s > l.

    exp(decay[l] - decay[s]) * dt[s] * (c[l] . b[s]), and d on the diagonal. dt is folded in here, because this is
    smaller than x; the future is masked in the overlap, because all heads share it, and only kept from overflowing in
    the exponential.
    """
    fade = (decay.unsqueeze(-1) - decay.unsqueeze(-2)).clamp(max=0).exp()
    mixing = fade * dt.unsqueeze(-2) * overlap.to(dt.dtype).tril().unsqueeze(2)
    mixing.diagonal(dim1=-2, dim2=-1).add_(d[:, None])
    return mixing


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
