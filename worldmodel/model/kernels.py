"""Mamba-2 on a GPU: mamba_ssm's Triton scan and causal_conv1d, behind the interfaces of their plain-torch forms.

Of mamba_ssm only the Triton kernels are used, so it may be installed without its CUDA extension.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.errors import UserError
from worldmodel.model.autotune import shorten_autotune
from worldmodel.model.scan import ScanInputs

Backend = Literal["auto", "torch", "kernels"]
PACKAGE, SCAN = "mamba_ssm", "mamba_ssm.ops.triton.ssd_combined"
SMALLEST_CHUNK, LONG_CHUNK = 16, 128
"""The scan's kernels take chunks of a power of two from here on; for sequences of `LONG_CHUNK` frames and more that
many, which writes fewer states."""


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
@cache
def is_installed() -> bool:
    """Whether mamba_ssm and Triton are there to be imported."""
    return find_spec(PACKAGE) is not None and find_spec("triton") is not None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
@cache
def has_convolution() -> bool:
    """Whether causal_conv1d is there to be imported."""
    return find_spec("causal_conv1d") is not None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # torch.compile need not look into it
def is_chosen(backend: Backend, device: torch.device) -> bool:
    """Whether a scan on `device` runs on the kernels.

    Raises `UserError` where they are asked for by name and cannot run.
    """
    if backend == "torch":
        return False
    if backend == "auto":
        return device.type == "cuda" and is_installed()
    if not is_installed():
        raise UserError(
            "model.backend is 'kernels', but mamba_ssm and Triton are not installed here: run `make gpu`, "
            "or set model.backend to 'auto' or 'torch'."
        )
    if device.type == "cpu" and not is_interpreted():
        raise UserError("model.backend is 'kernels', which need a GPU; set it to 'auto' or 'torch' to run on a CPU.")
    return True


def is_interpreted() -> bool:
    """True if Triton's kernels run on the CPU, in its interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def scan_chunks(
    inputs: ScanInputs,
    chunk: int,
    initial: Float[Tensor, "batch head width state"] | None = None,
    *,
    wants_state: bool = False,
) -> tuple[Float[Tensor, "batch time head width"], Float[Tensor, "batch head width state"] | None]:
    """What `scan.scan_chunks` computes, up to rounding."""
    y = import_scan().mamba_chunk_scan_combined(
        inputs.x,
        inputs.dt,
        inputs.a,
        inputs.b.unsqueeze(2),
        inputs.c.unsqueeze(2),
        choose_chunk(chunk, inputs.x.size(1)),
        D=inputs.d,
        initial_states=initial,
        return_final_states=wants_state,
    )
    return y if wants_state else (y, None)


def choose_chunk(chunk: int, length: int) -> int:
    """Frames of a chunk of the kernels, for sequences of `length` frames."""
    return max(LONG_CHUNK * (length >= LONG_CHUNK), SMALLEST_CHUNK, 1 << (chunk - 1).bit_length())


def convolve(
    frames: Float[Tensor, "batch time channel"],
    weight: Float[Tensor, "channel kernel"],
    bias: Float[Tensor, " channel"],
) -> Float[Tensor, "batch time channel"]:
    """SiLU of the causal depthwise convolution, as if zeros came before the first frame."""
    y: Tensor = import_convolution().causal_conv1d_fn(frames.mT, weight, bias, activation="silu")
    return y.mT


def import_convolution() -> Any:
    """causal_conv1d. UserError where it cannot be imported."""
    return _import("causal_conv1d")


@cache
def import_scan() -> Any:
    """The module of mamba_ssm that holds the scan. UserError where it cannot be imported.

    Importing the package itself would import all that it holds, language models and a CUDA extension for Mamba-1
    among them. So a bare package takes its place, unless somebody has imported the package before: of it we need
    nothing but where its modules lie.
    """
    if PACKAGE not in sys.modules and (spec := find_spec(PACKAGE)) is not None:
        sys.modules[PACKAGE] = module_from_spec(spec)
    module = _import(SCAN)
    shorten_autotune(PACKAGE)
    return module


def _import(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"{name} is installed but cannot be imported ({error}); reinstall it for this machine's torch and CUDA, "
            "or set model.backend to 'torch'."
        ) from error
