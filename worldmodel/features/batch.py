"""What passes between features, model and loss: named tensors.

Axes: batch B, time T (frames, 1/60 s), position N (predictions made per sample: 1 for a window, T for a sequence),
player P = 2. Term names are the loss terms of the schema ("continuous", "velocity", "dynamics", "binary" and, for
classes, "action", "jumps", "l_cancel", "hurtbox", "ground", "last_attack").
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """What the model sees."""

    floats: Float[Tensor, "batch time float"]
    """Scaled numbers, flags (0 or 1) and controls of both players: `FeatureLayout.float_width`."""
    classes: Int[Tensor, "batch time class"]
    """Class indices, clipped into their vocabularies: `FeatureLayout.class_width`; the stage is last."""
    controls: Float[Tensor, "batch position control"]
    """What conditions each prediction; the last N of the T frames are predicted from."""


@dataclass(frozen=True)
class Targets:
    """What the model should say, for each of N positions."""

    numbers: dict[str, Float[Tensor, "batch position player field"]]
    """Term to scaled deltas (continuous, velocity), scaled values (dynamics) or bits (binary)."""
    classes: dict[str, Int[Tensor, "batch position player"]]
    """Term to class index."""
    context_action: Int[Tensor, "batch position player"]
    """Action class in the last context frame: "changed" as the users publish it compares with this."""
    previous_action: Int[Tensor, "batch position player"]
    """Action class in the frame before the target; differs from `context_action` under lookahead."""
    valid: Bool[Tensor, "batch position"]
    """False where a position lies beyond its game's end or is not to be counted."""
    present: dict[str, Float[Tensor, "batch player field"]]
    """Term to 1.0 where the game records the field, 0.0 where its file lacks it; class terms have field width 1."""


@dataclass(frozen=True)
class Predictions:
    """What the model says, in the layout of `Targets`."""

    numbers: dict[str, Float[Tensor, "batch position player field"]]
    """Term to scaled deltas, scaled values, or logits (binary)."""
    logits: dict[str, Float[Tensor, "batch position player vocabulary"]]
    """Term to unnormalised log probabilities."""


for _kind in (Inputs, Targets, Predictions):
    torch.export.register_dataclass(_kind)  # so that torch finds the tensors in them
