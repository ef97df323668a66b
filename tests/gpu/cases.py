"""The trainings whose steps run on fake GPUs. Pure data: pytest reads it without a fake GPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

EXPERIMENTS = ("baseline", "1a", "2a", "3a", "1a-2a", "3a-1a", "3a-1a-2a")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A training on a fake GPU."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    """Of the experiment."""
    experiment: str = "baseline"
    backend: str = "torch"
    has_convolution: bool = False
    """True if causal_conv1d is installed."""
    rank: int | None = None
    """One of two workers on one machine, each with a GPU of its own; None: the only worker."""
    has_validation: bool = False
    """True if a validation and rollouts follow the steps."""
    is_captured: bool = False
    """True if steps of every kind are captured as CUDA graphs afterwards."""
    is_compiled: bool = False
    """True if the kernels of its chains are compiled for an A100."""
    is_measured: bool = False
    """True if the costs are right: the whole model, its chains lowered by inductor, which takes seconds. False: two
    layers, chains as written."""


WINDOWS = {"training.mode": "window"}
FORCING = {"self_forcing.enabled": True, "self_forcing.ratio": 1}
OTHERS = {
    "more inputs": {"encoding.projectiles": True, "encoding.state_flags": True, "encoding.hitstun": True},
    "published targets": {"encoding.targets": "published", "encoding.lookahead": 2},
    "float32, no swaps": {"training.amp": False, "training.swap_players": False},
    "two parts": {"training.batch_parts": 2},
    "windows": WINDOWS,
}
TORCH = [
    *(Case(name=f"experiment {name}", experiment=name) for name in EXPERIMENTS),
    *(Case(name=name, changes=changes) for name, changes in OTHERS.items()),
    Case(name="mlp", changes={"model.arch": "mlp", **WINDOWS}, has_validation=True),
    Case(name="self-forcing", changes=FORCING, is_captured=True),
    Case(name="validation", has_validation=True),
    Case(name="first of two workers", rank=0),
    Case(name="second of two workers", rank=1),
]
"""What needs torch alone."""


def _kernels(name: str, changes: dict[str, Any], **options: Any) -> list[Case]:
    return [
        Case(name=f"{name}, kernels", changes=changes, backend="kernels", **options),
        Case(
            name=f"{name}, kernels and convolution", changes=changes, backend="kernels", has_convolution=True, **options
        ),
    ]


def _measured(size: int) -> list[Case]:
    changes = {"training.batch_size": size, "training.sequence_length": 64}
    name = f"{size} x 64"
    return [
        Case(name=f"{name}, torch", changes=changes, is_measured=True, is_compiled=size == 64),
        *_kernels(name, changes, is_measured=True),
    ]


KERNELS = [
    *_measured(64),
    *_measured(512),
    *_kernels("laptop", {"model.d_model": 192, "training.batch_parts": 2}),
    *_kernels("windows", WINDOWS, has_validation=True),
    *_kernels("self-forcing", FORCING, has_validation=True, is_captured=True),
    *_kernels("sequences of 256", {"training.sequence_length": 256}),
    *_kernels("second of two workers", {}, rank=1),
]
"""What needs Triton and mamba_ssm."""
