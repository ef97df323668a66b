"""A Mamba-2 block with the users' parameter names, on either backend, over many frames or one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from worldmodel.model import kernels
from worldmodel.model.config import ModelConfig
from worldmodel.model.convolution import convolve
from worldmodel.model.norm import RMSNorm, project_gated
from worldmodel.model.scan import ScanInputs, scan_chunks, step_frame

KERNEL = 4
"""Frames that the causal convolution sees."""

BlockState = tuple[Float[Tensor, "batch tail channel"], Float[Tensor, "batch head width state"]]
"""The last `KERNEL - 1` frames that entered the convolution, and the state of the scan."""


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
        gate, mixed, dt = self._project(u, keep)
        joined = mixed if tail is None else torch.cat([tail.to(mixed.dtype), mixed], 1)
        y, memory = self._scan(self._convolve(joined)[:, -u.size(1) :], dt, memory, keep, wants_state)
        after = None if memory is None or not wants_state else (_cut_tail(joined), memory)
        return project_gated(y, gate, self.norm.weight, self.out_proj.weight), after

    def empty_state(self, batch: int) -> BlockState:
        """The state before a game's first frame."""
        inner, mixed, heads = self.widths
        return (
            self.D.new_zeros(batch, KERNEL - 1, mixed),
            self.D.new_zeros(batch, heads, inner // heads, self.state_width),
        )

    def _project(self, u: Tensor, keep: int) -> list[Tensor]:
        """Of the last `keep` frames what gates them; of all frames what the convolution mixes, and raw step sizes."""
        if keep == u.size(1):
            return list(torch.split(self.in_proj(u), self.widths, -1))
        own, rest = torch.split(self.in_proj.weight, [self.widths[0], sum(self.widths[1:])])
        return [F.linear(u[:, -keep:], own), *torch.split(F.linear(u, rest), self.widths[1:], -1)]

    def _convolve(self, frames: Tensor) -> Tensor:
        """SiLU of the causal depthwise convolution, as if zeros came before."""
        weight, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        assert bias is not None
        if self._uses_kernels(frames) and kernels.has_convolution() and len(bias) % kernels.CHANNEL_STEP == 0:
            return kernels.convolve(frames, weight, bias)
        return convolve(frames, weight, bias)

    def _uses_kernels(self, x: Tensor) -> bool:
        return kernels.is_chosen(self.backend, x.device)

    def _scan(
        self, mixed: Tensor, dt: Tensor, memory: Tensor | None, keep: int, wants_state: bool
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
            y, memory = scan_chunks(inputs, self.chunk, memory, keep=keep, wants_state=wants_state)
        return y[:, -keep:].flatten(2), memory


def _cut_tail(frames: Tensor) -> Tensor:
    """The last `KERNEL - 1` frames, behind zeros where there are fewer."""
    return F.pad(frames[:, 1 - KERNEL :], (0, 0, max(0, KERNEL - 1 - frames.size(1)), 0))


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
