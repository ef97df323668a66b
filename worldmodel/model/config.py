"""The size and kind of a model: the users' `model:` section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from worldmodel.errors import UserError

EXPANSION = 2
"""Inner width of a Mamba-2 block per unit of `d_model`."""
Size = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The `model` section of an experiment file. Keys and defaults are the users'; `backend` is ours.

    Raises `UserError` where no model can have these sizes.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    arch: Literal["mamba2", "mlp"] = "mamba2"
    context_len: Size = 10
    """Frames of a window (K): what the MLP sees, and what a Mamba-2 trained on windows is shown."""
    d_model: Size = 384
    """Mamba-2: width of the residual stream."""
    d_state: Size = 64
    """Mamba-2: size of the state per channel (N)."""
    n_layers: Size = 4
    """Mamba-2: number of blocks."""
    headdim: Size = 64
    """Mamba-2: width of a head (P); divides 2 x d_model."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the input (Mamba-2) or of each hidden layer (MLP) that is dropped in training."""
    chunk_size: Annotated[int, Field(ge=1, le=1024)] = 32
    """Mamba-2: frames per matrix product of the scan. Speed only: the result does not depend on it.
    Its square is held in memory."""
    hidden_dim: Size = 512
    """MLP: width of the first layer."""
    trunk_dim: Size = 256
    """MLP: width of the second layer."""
    kinematic_head: bool = False
    """Whether a predicted change of position adds to where the predicted speeds lead (see `features/context.py`),
    instead of standing alone as published."""
    output_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Factor on predicted deltas. Below 1 their heads start at zero: a step of Adam then moves a position by little.
    1: as published."""
    copy_prior: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Where a learned number starts that is added to the logit of the present action: most frames change nothing.
    0: no such number, as published."""
    rule_prior: bool = False
    """Whether predicted values (hitlag, stocks, combo), flags and classes add to what they are by the schema's rule, as
    deltas and the action do, instead of standing alone as published."""
    backend: Literal["auto", "torch", "kernels"] = "auto"
    """Mamba-2: `kernels` runs mamba_ssm's Triton kernels, `torch` runs anywhere; `auto` takes the kernels where there
    are a GPU and mamba_ssm. The weights are the same."""

    def __post_init__(self) -> None:
        if self.arch == "mamba2" and self.inner_width % self.headdim:
            raise UserError(
                f"model.headdim {self.headdim} does not divide the inner width {self.inner_width} "
                f"({EXPANSION} x d_model {self.d_model}); choose one that does, such as 64."
            )

    @property
    def is_published(self) -> bool:
        """Whether the users' own model classes compute the same."""
        return not self.kinematic_head and self.output_scale == 1 and not self.copy_prior and not self.rule_prior

    @property
    def inner_width(self) -> int:
        """Channels inside a Mamba-2 block."""
        return EXPANSION * self.d_model

    @property
    def heads(self) -> int:
        """Heads of a Mamba-2 block (H)."""
        return self.inner_width // self.headdim
