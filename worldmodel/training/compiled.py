"""What `training.compile` means: steps captured as CUDA graphs, the model's pass compiled by torch.compile, or both.

Only training is compiled: weights, checkpoints and validation know nothing of it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from worldmodel.errors import UserError
from worldmodel.experiment.config import CompileMode, ExperimentConfig
from worldmodel.features.batch import Inputs
from worldmodel.model.world_model import WorldModel
from worldmodel.training.feed import Feed

GRAPHS: frozenset[CompileMode] = frozenset({"graph", "compile_graph"})
"""Modes that capture steps."""
COMPILED: frozenset[CompileMode] = frozenset({"compile", "compile_graph"})
"""Modes that compile the pass."""

Pass = Callable[..., Any]
"""A model's forward."""


def choose_mode(mode: CompileMode, device: torch.device) -> CompileMode:
    """The mode itself, or what `auto` means on a device."""
    if mode != "auto":
        return mode
    return "graph" if device.type == "cuda" else "off"


def captures(mode: CompileMode) -> bool:
    """Whether a mode (not `auto`) captures steps."""
    return mode in GRAPHS


def check_compiler(mode: CompileMode, device: torch.device) -> None:
    """UserError where what compiles for a device is missing, or `mode` is not for it."""
    if device.type == "cpu" and mode in GRAPHS:
        raise UserError(
            f"training.compile {mode!r} needs a GPU, the run is on a CPU: set it to 'auto', which is 'graph' on GPUs "
            "and 'off' on CPUs, or to 'compile'"
        )
    if mode not in COMPILED:
        return
    if device.type != "cpu" and find_spec("triton") is None:
        raise UserError(f"training.compile {mode!r} needs Triton, which is not installed: add it, or set it to 'auto'")
    compiler = os.environ.get("CXX", "g++") if device.type == "cpu" else os.environ.get("CC", "gcc")
    if shutil.which(compiler) is None:
        raise UserError(
            f"training.compile {mode!r} needs a compiler, but {compiler!r} is not found here: install g++ (Debian, "
            "Ubuntu: build-essential), name another in CXX and CC, or set training.compile to 'off'"
        )


def find_obstacle(feed: Feed, config: ExperimentConfig) -> str | None:
    """Why steps of an experiment are not captured, as a sentence; None: they can be."""
    why = None
    if feed.worker.world > 1:
        why = f"{feed.worker.world} workers train together"
    elif feed.parts > 1 and config.model.dropout:
        why = f"a batch in {feed.parts} parts draws its dropout anew for each of them"
    elif not feed.opens_in_step:
        why = "the games are stored in two layouts"
    return why and f"training steps run without CUDA graphs, which is slower: {why}"


def compile_pass(model: WorldModel, parallel: nn.Module, mode: CompileMode, device: torch.device) -> Pass:
    """What computes a training pass: `parallel` itself, or a compiled form of it.

    Args:
        model: the plain model.
        parallel: the model, or what averages its gradients over workers.
        mode: `training.compile`, but for `auto`.
        device: where it runs. On a GPU all batches have one size; on a CPU one program serves all sizes (but for a
            single sample, which gets its own), so the short last batch of an epoch compiles nothing anew.
    """
    if mode not in COMPILED:
        return parallel
    compiled = torch.compile(parallel, dynamic=False if device.type == "cuda" else None)

    def compute(inputs: Inputs, *, wants_state: bool) -> Any:
        if device.type == "cpu":
            for tensor in (inputs.floats, inputs.classes, inputs.controls):
                torch._dynamo.maybe_mark_dynamic(tensor, 0)  # type: ignore[no-untyped-call]
        return compiled(inputs, wants_state=wants_state)

    return compute
