"""The training pass of a model compiled by torch.compile, and on GPUs replayed as CUDA graphs.

Only training is compiled: weights, checkpoints and validation know nothing of it. Batches of every size run on one
program (but for a single sample, which gets its own), so the short last batch of an epoch compiles nothing anew.
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
from worldmodel.experiment.config import CompileMode
from worldmodel.features.batch import Inputs
from worldmodel.model import kernels
from worldmodel.model.world_model import WorldModel

TORCH_MODES = {"default": "default", "cuda_graphs": "reduce-overhead", "max_autotune": "max-autotune"}
"""What torch calls `training.compile`; the last two replay CUDA graphs."""
WITHOUT_GRAPHS = {"cuda_graphs": "default", "max_autotune": "max-autotune-no-cudagraphs"}

Pass = Callable[..., Any]
"""A model's forward."""


def check_compiler(mode: CompileMode, device: torch.device) -> None:
    """UserError where what compiles for a device is missing, or `mode` is not for it."""
    if mode == "off":
        return
    if device.type == "cpu" and mode in WITHOUT_GRAPHS:
        raise UserError(f"training.compile {mode!r} needs a GPU, the run is on a CPU: set it to 'default' or 'off'")
    if device.type != "cpu" and find_spec("triton") is None:
        raise UserError(f"training.compile {mode!r} needs Triton, which is not installed: add it, or set it to 'off'")
    compiler = os.environ.get("CXX", "g++") if device.type == "cpu" else os.environ.get("CC", "gcc")
    if shutil.which(compiler) is None:
        raise UserError(
            f"training.compile {mode!r} needs a compiler, but {compiler!r} is not found here: install g++ (Debian, "
            "Ubuntu: build-essential), name another in CXX and CC, or set training.compile to 'off'"
        )


def choose_mode(mode: CompileMode, parts: int) -> str:
    """torch's name of the mode. Without graphs where gradients add up over parts: a graph would overwrite them."""
    return WITHOUT_GRAPHS.get(mode, TORCH_MODES[mode]) if parts > 1 else TORCH_MODES[mode]


def note_graphs(mode: CompileMode, parts: int) -> list[str]:
    """What people should know of a mode whose graphs cannot be used."""
    if mode not in WITHOUT_GRAPHS or parts == 1:
        return []
    return [f"training.compile {mode!r} goes without CUDA graphs: a worker's batch is computed in {parts} parts"]


def compile_pass(model: WorldModel, parallel: nn.Module, mode: CompileMode, parts: int) -> Pass:
    """What computes a training pass: `parallel` itself, or a compiled form of it.

    Args:
        model: the plain model.
        parallel: the model, or what averages its gradients over workers.
        mode: `training.compile`.
        parts: passes of a step on this worker.
    """
    if mode == "off":
        return parallel
    _leave_out(model, "add_priors")  # looks its columns up in the schema, which torch.compile does not follow
    for name in ("scan_chunks", "convolve"):  # compiled already
        _leave_out(kernels, name)
    compiled = torch.compile(parallel, mode=choose_mode(mode, parts))

    def compute(inputs: Inputs, *, wants_state: bool) -> Any:
        for tensor in (inputs.floats, inputs.classes, inputs.controls):
            torch._dynamo.maybe_mark_dynamic(tensor, 0)  # type: ignore[no-untyped-call]
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return compiled(inputs, wants_state=wants_state)

    return compute


def _leave_out(owner: object, name: str) -> None:
    setattr(owner, name, torch.compiler.disable(getattr(owner, name)))  # type: ignore[no-untyped-call]
