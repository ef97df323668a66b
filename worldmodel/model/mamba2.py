"""A Mamba-2 block with the users' parameter names, on either backend, over many frames or one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from worldmodel.model import kernels
from worldmodel.model.config import ModelConfig
from worldmodel.model.convolution import convolve
from worldmodel.model.scan import ScanInputs, scan_chunks, step_frame

KERNEL = 4
"""Frames that the causal convolution sees."""
EPSILON = 1e-5

BlockState = tuple[Float[Tensor, "batch tail channel"], Float[Tensor, "batch head width state"]]
"""The last `KERNEL - 1` frames that entered the convolution, and the state of the scan."""


class RMSNorm(nn.Module):
    """Scales each vector to a root mean square of 1, then by a learned weight (Zhang & Sennrich 2019), in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """The scaled vectors, in the type of `x` or of the weight, whichever is wider."""
        x = x.to(torch.promote_types(x.dtype, self.weight.dtype))
        return F.rms_norm(x, self.weight.shape, self.weight, EPSILON)


class Mamba2(nn.Module):
    """The block of Dao & Gu 2024 (arXiv:2405.21060): project, mix over time (convolution and scan), gate, project."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        inner, heads = config.inner_width, config.heads
        self.chunk, self.backend = config.chunk_size, config.backend
        self.head_width, self.state_width = config.headdim, config.d_state
        mixed = inner + 2 * config.d_state
        self.widths = [inner, mixed, heads]
        self.dt_bias = nn.Parameter(torch.empty(heads).uniform_(-1, 1))
        self.A_log = nn.Parameter(torch.linspace(1, heads, heads).log())
        self.D = nn.Parameter(torch.ones(heads))
        self.in_proj = nn.Linear(config.d_model, sum(self.widths), bias=False)
        self.conv1d = nn.Conv1d(mixed, mixed, KERNEL, groups=mixed)
        self.norm = RMSNorm(inner)
        self.out_proj = nn.Linear(inner, config.d_model, bias=False)

    def forward(
        self, u: Float[Tensor, "batch time model"], state: BlockState | None, *, keep: int, wants_state: bool
    ) -> tuple[Float[Tensor, "batch keep model"], BlockState | None]:
        """The block's output of the last `keep` frames and, where `wants_state`, what the next frames need to know."""
        tail, memory = (None, None) if state is None else state
        gate, mixed, dt = torch.split(self.in_proj(u), self.widths, -1)
        tail = mixed.new_zeros(u.size(0), KERNEL - 1, mixed.size(-1)) if tail is None else tail.to(mixed.dtype)
        mixed = torch.cat([tail, mixed], 1)
        y, memory = self._scan(self._convolve(mixed), dt, memory, wants_state)
        after = None if memory is None or not wants_state else (mixed[:, -tail.size(1) :].clone(), memory)
        return self._project(y[:, -keep:] * F.silu(gate[:, -keep:])), after

    def empty_state(self, batch: int) -> BlockState:
        """The state before a game's first frame."""
        inner, mixed, heads = self.widths
        return (
            self.D.new_zeros(batch, KERNEL - 1, mixed),
            self.D.new_zeros(batch, heads, inner // heads, self.state_width),
        )

    def _convolve(self, padded: Tensor) -> Tensor:
        """SiLU of the causal depthwise convolution of the frames behind the first `KERNEL - 1`."""
        weight, bias, before = self.conv1d.weight.squeeze(1), self.conv1d.bias, KERNEL - 1
        assert bias is not None
        if self._uses_kernels(padded) and kernels.has_convolution() and len(bias) % kernels.CHANNEL_STEP == 0:
            return kernels.convolve(padded, weight, bias)[:, before:]
        return F.silu(convolve(padded, weight.mT.to(padded.dtype).contiguous(), bias.to(padded.dtype)))

    def _uses_kernels(self, x: Tensor) -> bool:
        return kernels.is_chosen(self.backend, x.device)

    def _project(self, gated: Tensor) -> Tensor:
        """out_proj(norm(gated)). The norm's weight joins the matrix and its scale the narrower output: fewer passes."""
        precise = torch.promote_types(gated.dtype, self.D.dtype)
        length = torch.linalg.vector_norm(gated, dim=-1, keepdim=True, dtype=precise)
        scale = torch.rsqrt(length.square() / gated.size(-1) + EPSILON)
        return F.linear(gated, self.out_proj.weight * self.norm.weight) * scale

    def _scan(
        self, mixed: Tensor, dt: Tensor, memory: Tensor | None, wants_state: bool
    ) -> tuple[Tensor, Tensor | None]:
        inner, _, heads = self.widths
        x, b, c = torch.split(mixed, [inner, self.state_width, self.state_width], -1)
        precise = torch.promote_types(dt.dtype, self.dt_bias.dtype)
        inputs = ScanInputs(
            x=x.reshape(*x.shape[:-1], heads, self.head_width),
            dt=F.softplus(dt.to(precise) + self.dt_bias),
            a=-self.A_log.exp(),
            b=b,
            c=c,
            d=self.D,
        )
        if x.size(1) == 1 and memory is not None:
            y, memory = step_frame(inputs, memory)
        elif self._uses_kernels(x):
            y, memory = kernels.scan_chunks(inputs, self.chunk, memory, wants_state=wants_state)
        else:
            y, memory = scan_chunks(inputs, self.chunk, memory, wants_state=wants_state)
        return y.flatten(2), memory


class Mamba2Layer(nn.Module):
    """A residual layer: x + mamba(norm(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.mamba, self.norm = Mamba2(config), RMSNorm(config.d_model)

    def forward(
        self, x: Float[Tensor, "batch time model"], state: BlockState | None, *, keep: int, wants_state: bool
    ) -> tuple[Float[Tensor, "batch keep model"], BlockState | None]:
        """The last `keep` frames of the residual stream after this layer, and the block's state where it is wanted."""
        y, state = self.mamba(self.norm(x), state, keep=keep, wants_state=wants_state)
        return x[:, -keep:] + y, state

    def empty_state(self, batch: int) -> BlockState:
        """The block's state before a game's first frame."""
        return self.mamba.empty_state(batch)
