"""The yardstick's step with transformers' Mamba-2 mixer in place of its blocks."""

from __future__ import annotations

from torch import Tensor, nn

from tests.benchmarks.reference import CONTEXT, LAYERS, Model, ReferenceStep
from tests.model.compare_transformers import build_mixer
from worldmodel.model.config import ModelConfig


class Mixer(nn.Module):
    """Transformers' mixer, called as the yardstick calls its block."""

    def __init__(self) -> None:
        super().__init__()
        self.mixer = build_mixer(ModelConfig(chunk_size=CONTEXT))

    def forward(self, u: Tensor) -> Tensor:
        """What the block adds to its input."""
        out: Tensor = self.mixer(u)
        return out


def make_step() -> ReferenceStep:
    """The step on windows."""
    return ReferenceStep(Model([Mixer() for _ in range(LAYERS)]))
