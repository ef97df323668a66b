"""Which network is built, and how large it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

Size = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The `model` section of an experiment file; the keys are the users'."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    arch: Literal["mamba2", "mlp"] = "mamba2"
    """`mamba2`, or `mlp`: the frame-stacking network of Round 1 (windows only)."""
    context_len: Size = 10
    """K, frames that a window shows before its target."""
    d_model: Size = 384
    """mamba2: width of the residual stream."""
    d_state: Size = 64
    """mamba2: state size per channel."""
    n_layers: Size = 4
    """mamba2: number of blocks."""
    headdim: Size = 64
    """mamba2: channels per head; divides 2 x `d_model`."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of activations dropped in training."""
    chunk_size: Size = 32
    """mamba2: frames that the scan handles in one matrix product; changes speed, not results."""
    hidden_dim: Size = 512
    """mlp: width of the first layer."""
    trunk_dim: Size = 256
    """mlp: width of the second layer."""
    backend: Literal["auto", "torch", "kernels"] = "auto"
    """mamba2: `kernels` are mamba_ssm's on CUDA, `torch` runs anywhere, `auto` takes what is there."""
