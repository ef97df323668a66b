"""A Mamba-2 block with the users' parameter names, on either backend, over many frames or one."""

from __future__ import annotations

from types import ModuleType

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from worldmodel.machine.fused import can_compile, fused
from worldmodel.model import kernels, short_scan
from worldmodel.model.config import ModelConfig
from worldmodel.model.convolution import convolve
from worldmodel.model.norm import RMSNorm, project_gated
from worldmodel.model.scan import ScanInputs, scan_chunks, step_frame

KERNEL = 4
"""Frames that the causal convolution sees."""
ALIGNMENT = 8
"""On a GPU the widths of `in_proj` are multiples of this: tensor cores and causal_conv1d ask for it."""

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
        self.shape = short_scan.Shape(heads, config.headdim, config.d_state)
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
        gate, joined, inputs = self.enter(u, tail, keep)
        y, memory = self.scan(inputs, memory, keep, wants_state)
        after = None if memory is None or not wants_state else (_cut_tail(joined), memory)
        return self.leave(y, gate), after

    def enter(self, u: Tensor, tail: Tensor | None, keep: int) -> tuple[Tensor, Tensor, ScanInputs]:
        """What gates the last `keep` frames, what enters the convolution, and what drives the scan."""
        gate, mixed, dt = self._project(u, keep)
        joined = mixed if tail is None else torch.cat([tail.to(mixed.dtype), mixed], 1)
        return gate, joined, self._drive(self._convolve(joined)[:, -u.size(1) :], dt)

    def leave(self, y: Tensor, gate: Tensor) -> Tensor:
        """The block's output for what the scan gave."""
        return project_gated(y, gate, self.norm.weight, self.out_proj.weight)

    def empty_state(self, batch: int) -> BlockState:
        """The state before a game's first frame."""
        inner, mixed, heads = self.widths
        return (
            self.D.new_zeros(batch, KERNEL - 1, mixed),
            self.D.new_zeros(batch, heads, inner // heads, self.state_width),
        )

    def _project(self, u: Tensor, keep: int) -> list[Tensor]:
        """Of the last `keep` frames what gates them; of all frames what the convolution mixes, and raw step sizes."""
        weight, (own, *rest) = self.in_proj.weight, self.widths
        if keep == u.size(1):
            return list(torch.split(_project_aligned(u, weight), self.widths, -1))
        first, others = torch.split(weight, [own, sum(rest)])
        return [_project_aligned(u[:, -keep:], first), *torch.split(_project_aligned(u, others), rest, -1)]

    def _convolve(self, frames: Tensor) -> Tensor:
        """SiLU of the causal depthwise convolution, as if zeros came before."""
        weight, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        assert bias is not None
        if self._fits_convolution() and kernels.is_chosen(self.backend, frames.device):
            y: Tensor = choose_kernels().convolve(frames, weight, bias)
            return y
        return convolve(frames, weight, bias)

    def _fits_convolution(self) -> bool:
        inner, mixed, _ = self.widths
        return inner % ALIGNMENT == 0 and mixed % ALIGNMENT == 0 and kernels.has_convolution()

    def _drive(self, mixed: Tensor, dt: Tensor) -> ScanInputs:
        inner, _, heads = self.widths
        x, b, c = torch.split(mixed, [inner, self.state_width, self.state_width], -1)
        precise = torch.promote_types(dt.dtype, self.dt_bias.dtype)
        return ScanInputs(
            x=x.reshape(*x.shape[:-1], heads, self.head_width),
            dt=F.softplus(dt.to(precise) + self.dt_bias),
            a=-self.A_log.exp(),
            b=b,
            c=c,
            d=self.D,
        )

    def scan(
        self, inputs: ScanInputs, memory: Tensor | None, keep: int, wants_state: bool
    ) -> tuple[Float[Tensor, "batch keep inner"], Tensor | None]:
        """The scan's output of the last `keep` frames and, where `wants_state`, its state."""
        if inputs.x.size(1) == 1 and memory is not None:
            y, memory = step_frame(inputs, memory)
        elif self.runs_kernels(inputs.x, has_state=memory is not None or wants_state):
            y, memory = choose_kernels().scan_chunks(inputs, self.chunk, memory, wants_state=wants_state)
        else:
            y, memory = scan_chunks(inputs, self.chunk, memory, keep=keep, wants_state=wants_state)
        return y[:, -keep:].flatten(2), memory

    def mix(self, projected: Float[Tensor, "batch time column"]) -> Float[Tensor, "batch time inner"]:
        """All between `in_proj` and `out_proj`, by our own kernels for short sequences."""
        weight, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        assert bias is not None
        rest = (weight, bias, self.dt_bias, self.A_log, self.D, self.norm.weight)
        return short_scan.mix_frames(projected, *rest, self.shape)

    def runs_short(self, x: Float[Tensor, "batch time *width"]) -> bool:
        """True if our own kernels take sequences of this length."""
        is_possible = (x.is_cuda and can_compile()) or (self.backend == "kernels" and kernels.is_interpreted())
        return is_possible and not torch.compiler.is_compiling() and short_scan.fits(self.shape, x.size(1))

    def runs_kernels(self, x: Float[Tensor, "batch time *width"], *, has_state: bool = False) -> bool:
        """True if mamba_ssm scans these frames. Torch takes few frames as one chunk, and so moves less memory."""
        is_one_chunk = x.size(1) <= 2 * self.chunk and not has_state
        return not is_one_chunk and kernels.is_chosen(self.backend, x.device)


def choose_kernels() -> ModuleType:
    """What runs the kernels: operators that a compiler does not look into, or the plain functions."""
    if not torch.compiler.is_compiling():
        return kernels
    from worldmodel.model import operators

    return operators


def _project_aligned(u: Tensor, weight: Tensor) -> Tensor:
    """`weight @ u`. On a GPU the matrix gets rows of zeros up to a multiple of `ALIGNMENT`, cut off from the result."""
    return F.linear(u, _align(weight))[..., : len(weight)]


def _align(weight: Tensor) -> Tensor:
    missing = -len(weight) % ALIGNMENT
    return F.pad(weight, (0, 0, 0, missing)) if missing and weight.is_cuda else weight


def _last(frames: Tensor, keep: int) -> Tensor:
    """The last `keep` frames."""
    return frames if keep == frames.size(1) else frames[:, -keep:]


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
        if state is not None or wants_state:
            y, state = self.mamba(self.norm(x), state, keep=keep, wants_state=wants_state)
            return _last(x, keep) + y, state
        if self.mamba.runs_short(x):
            return _add(self, x, self.mamba.mix(_project(self, x)), keep), None
        if self.mamba.runs_kernels(x):
            gate, inputs = _enter(self, x, keep)
            y, _ = self.mamba.scan(inputs, None, keep, False)
            return _leave(self, x, y, gate), None
        return _run(self, x, keep), None

    def empty_state(self, batch: int) -> BlockState:
        """The block's state before a game's first frame."""
        return self.mamba.empty_state(batch)


@fused
def _project(layer: Mamba2Layer, x: Tensor) -> Tensor:
    """What a layer's kernels take."""
    return F.linear(layer.norm(x), _align(layer.mamba.in_proj.weight))


@fused
def _add(layer: Mamba2Layer, x: Tensor, mixed: Tensor, keep: int) -> Tensor:
    """The residual stream behind a layer, for what its kernels gave."""
    y: Tensor = layer.mamba.out_proj(_last(mixed, keep))
    return _last(x, keep) + y


@fused
def _run(layer: Mamba2Layer, x: Tensor, keep: int) -> Tensor:
    """A whole layer without kernels."""
    y: Tensor = layer.mamba(layer.norm(x), None, keep=keep, wants_state=False)[0]
    return _last(x, keep) + y


@fused
def _enter(layer: Mamba2Layer, x: Tensor, keep: int) -> tuple[Tensor, ScanInputs]:
    """A layer up to its scan."""
    gate, _, inputs = layer.mamba.enter(layer.norm(x), None, keep)
    return gate, inputs


@fused
def _leave(layer: Mamba2Layer, x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """A layer behind its scan."""
    return _last(x, gate.size(1)) + layer.mamba.leave(y, gate)
