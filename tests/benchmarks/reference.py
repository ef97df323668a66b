"""The yardstick: a training step written plainly, the way the users' own is, at the sizes of their 4.28M model.

Windows of K = 10 frames, one product of four operands for the scan inside a chunk, a pass between chunks even when
there is only one, one `.item()` per loss term. Its inputs are random: only its cost is of interest.
"""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

FRAME, CONTROLS = 196, 26
"""Widths of a frame's inputs and of the next controls."""
HEADS = (8, 6, 10, 6, 400, 400, 8, 8, 3, 3, 3, 3, 32, 32, 64, 64)
"""Outputs of each head: four of numbers, then the classes of both players."""
NUMBERS = 4
CONTEXT, BATCH = 10, 512
WIDTH, LAYERS, STATE, HEAD, KERNEL = 384, 4, 64, 64, 4


def segment_sum(x: Float[Tensor, "*batch time"]) -> Float[Tensor, "*batch time time"]:
    """Sums of x over (s, l] for every l >= s; -inf above the diagonal."""
    length = x.size(-1)
    below = torch.ones(length, length, dtype=torch.bool).tril(-1)
    sums = x.unsqueeze(-1).expand(*x.shape, length).masked_fill(~below, 0).cumsum(-2)
    return sums.masked_fill(~(below | torch.eye(length, dtype=torch.bool)), -torch.inf)


def scan(
    x: Float[Tensor, "batch time head width"],
    decay: Float[Tensor, "batch time head"],
    b: Float[Tensor, "batch time state"],
    c: Float[Tensor, "batch time state"],
    size: int,
) -> Float[Tensor, "batch time head width"]:
    """Mamba-2's minimal chunked scan (Dao and Gu 2024, https://arxiv.org/abs/2405.21060, listing 1), one group.

    `x` is already scaled by dt, `decay` is in log space, chunks are of `size` frames, which divides the time.
    """
    batch, length, heads, width = x.shape
    x, decay = x.reshape(batch, -1, size, heads, width), decay.reshape(batch, -1, size, heads).permute(0, 1, 3, 2)
    b, c = b.reshape(batch, -1, size, b.size(-1)), c.reshape(batch, -1, size, c.size(-1))
    total = decay.cumsum(-1)
    inside = torch.einsum("bcln, bcsn, bchls, bcshp -> bclhp", c, b, segment_sum(decay).exp(), x)
    states = torch.einsum("bchl, bcln, bclhp -> bchpn", (total[..., -1:] - total).exp(), b, x)
    states = torch.cat([torch.zeros_like(states[:, :1]), states], 1)
    between = segment_sum(F.pad(total[..., -1].permute(0, 2, 1), (1, 0))).exp()
    entering = torch.einsum("bhzc, bchpn -> bzhpn", between, states)[:, :-1]
    across = torch.einsum("bcln, bchpn, bchl -> bclhp", c, entering, total.exp())
    return (inside + across).reshape(batch, length, heads, width)


class Norm(nn.Module):
    """RMS norm, gated where a gate is given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """The shape of `x`."""
        x = x if gate is None else x * F.silu(gate)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


class Block(nn.Module):
    """One Mamba-2 block."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = 2 * WIDTH
        self.heads, self.mixed = self.inner // HEAD, self.inner + 2 * STATE
        self.in_proj = nn.Linear(WIDTH, self.inner + self.mixed + self.heads, bias=False)
        self.conv1d = nn.Conv1d(self.mixed, self.mixed, KERNEL, groups=self.mixed, padding=KERNEL - 1)
        self.dt_bias = nn.Parameter(torch.empty(self.heads).uniform_(-1, 1))
        self.A_log = nn.Parameter(torch.linspace(1, self.heads, self.heads).log())
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm, self.out_proj = Norm(self.inner), nn.Linear(self.inner, WIDTH, bias=False)

    def forward(self, u: Float[Tensor, "batch time hidden"]) -> Float[Tensor, "batch time hidden"]:
        """What the block adds to its input."""
        length = u.size(1)
        gate, mixed, dt = self.in_proj(u).split([self.inner, self.mixed, self.heads], -1)
        dt = F.softplus(dt + self.dt_bias)
        mixed = F.silu(self.conv1d(mixed.transpose(1, 2)).transpose(1, 2)[:, :length])
        x, b, c = mixed.split([self.inner, STATE, STATE], -1)
        x = x.unflatten(-1, (self.heads, HEAD))
        y = scan(x * dt.unsqueeze(-1), -self.A_log.exp() * dt, b, c, CONTEXT) + x * self.D.unsqueeze(-1)
        out: Tensor = self.out_proj(self.norm(y.flatten(-2), gate))
        return out


class Model(nn.Module):
    """Blocks over the frames of a window, and heads at its end. `blocks`: others in place of `Block`'s."""

    def __init__(self, blocks: list[nn.Module] | None = None) -> None:
        super().__init__()
        self.frame_proj, self.ctrl_proj = nn.Linear(FRAME, WIDTH), nn.Linear(CONTROLS, WIDTH)
        self.norms = nn.ModuleList(Norm(WIDTH) for _ in range(LAYERS))
        self.blocks = nn.ModuleList(blocks or [Block() for _ in range(LAYERS)])
        self.final = Norm(WIDTH)
        self.outputs = nn.ModuleList(nn.Linear(WIDTH, width) for width in HEADS)

    def forward(
        self, frames: Float[Tensor, "batch time frame"], controls: Float[Tensor, "batch control"]
    ) -> list[Tensor]:
        """What each head says of the frame after the window."""
        x = self.frame_proj(frames)
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = x + block(norm(x))
        x = self.final(x[:, -1]) + self.ctrl_proj(controls)
        return [head(x) for head in self.outputs]


class ReferenceStep:
    """Forward, backward, clipping and AdamW on one batch of windows, again and again, in bfloat16."""

    def __init__(self, model: Model | None = None) -> None:
        torch.manual_seed(0)
        self.model = model or Model()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=5e-4)
        self.frames, self.controls = torch.randn(BATCH, CONTEXT, FRAME), torch.rand(BATCH, CONTROLS)
        self.classes = torch.randint(0, max(HEADS), (BATCH,))

    def run(self) -> int:
        """One step; returns its targets."""
        with torch.autocast("cpu", torch.bfloat16):
            loss = compute_loss(self.model(self.frames, self.controls), self.classes)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return BATCH


def compute_loss(outputs: list[Tensor], classes: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
    """The sum of one term per head, each read by the host as it comes."""
    total = outputs[0].new_zeros(())
    for place, out in enumerate(outputs):
        part = out.pow(2).mean() if place < NUMBERS else F.cross_entropy(out.float(), classes % out.size(-1))
        part.item()
        total = total + part
    return total


def measure_rate(steps: int = 5) -> float:
    """Targets per CPU-second of the best of some steps, after one that is not measured; one thread."""
    torch.set_num_threads(1)
    step, best = ReferenceStep(), 0.0
    step.run()
    for _ in range(steps):
        began = time.process_time()
        done = step.run()
        best = max(best, done / (time.process_time() - began))
    return best
