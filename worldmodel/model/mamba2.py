"""A Mamba-2 block with the users' parameter names, on either backend, over many frames or one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from worldmodel.model import kernels
from worldmodel.model.config import ModelConfig
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
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON) * self.weight


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
        self, u: Float[Tensor, "batch time model"], state: BlockState | None, *, wants_state: bool
    ) -> tuple[Float[Tensor, "batch time model"], BlockState | None]:
        """The block's output of every frame and, where `wants_state`, what the next frames need to know of them."""
        tail, memory = (None, None) if state is None else state
        gate, mixed, dt = torch.split(self.in_proj(u), self.widths, -1)
        tail = mixed.new_zeros(u.size(0), KERNEL - 1, mixed.size(-1)) if tail is None else tail.to(mixed.dtype)
        mixed = torch.cat([tail, mixed], 1)
        y, memory = self._scan(self._convolve(mixed), dt, memory, wants_state)
        y = self.out_proj(self.norm(y * F.silu(gate)))
        return y, (mixed[:, -tail.size(1) :], memory) if wants_state and memory is not None else None

    def empty_state(self, batch: int) -> BlockState:
        """The state before a game's first frame."""
        inner, mixed, heads = self.widths
        return (
            self.D.new_zeros(batch, KERNEL - 1, mixed),
            self.D.new_zeros(batch, heads, inner // heads, self.state_width),
        )

    def _convolve(self, padded: Tensor) -> Tensor:
        """SiLU of the causal depthwise convolution. Shifted multiply-adds: on CPUs several times faster than conv1d."""
        length = padded.size(1) - KERNEL + 1
        taps = self.conv1d.weight.to(padded.dtype).squeeze(1).unbind(-1)
        assert self.conv1d.bias is not None
        total = self.conv1d.bias.to(padded.dtype)
        for shift, tap in enumerate(taps):
            total = torch.addcmul(total, padded[:, shift : shift + length], tap)
        return F.silu(total)

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
        elif kernels.is_chosen(self.backend, x.device):
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
        self, x: Float[Tensor, "batch time model"], state: BlockState | None, *, wants_state: bool
    ) -> tuple[Float[Tensor, "batch time model"], BlockState | None]:
        """The residual stream after this layer, and the block's state where it is wanted."""
        y, state = self.mamba(self.norm(x), state, wants_state=wants_state)
        return x + y, state

    def empty_state(self, batch: int) -> BlockState:
        """The block's state before a game's first frame."""
        return self.mamba.empty_state(batch)
