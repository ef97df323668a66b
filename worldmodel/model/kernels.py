"""The Mamba-2 scan on a GPU: mamba_ssm's Triton kernels, behind the interface of the plain-torch scan."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.errors import UserError
from worldmodel.model.scan import ScanInputs

Backend = Literal["auto", "torch", "kernels"]


@cache
def is_installed() -> bool:
    """Whether mamba_ssm and Triton can be imported."""
    return find_spec("mamba_ssm") is not None and find_spec("triton") is not None


def is_chosen(backend: Backend, device: torch.device) -> bool:
    """Whether a scan on `device` runs on the kernels.

    Raises `UserError` where they are asked for by name and cannot run.
    """
    if backend == "torch":
        return False
    if backend == "kernels" and not is_installed():
        raise UserError(
            "model.backend is 'kernels', but mamba_ssm is not installed here: install the 'gpu' extra, "
            "or set model.backend to 'auto' or 'torch'."
        )
    return backend == "kernels" or (device.type == "cuda" and is_installed())


def scan_chunks(
    inputs: ScanInputs,
    chunk: int,
    initial: Float[Tensor, "batch head width state"] | None = None,
    *,
    wants_state: bool = False,
) -> tuple[Float[Tensor, "batch time head width"], Float[Tensor, "batch head width state"] | None]:
    """What `scan.scan_chunks` computes, up to rounding. The kernels take chunks of a power of two, at least 16."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    y = mamba_chunk_scan_combined(
        inputs.x,
        inputs.dt,
        inputs.a,
        inputs.b.unsqueeze(2),
        inputs.c.unsqueeze(2),
        max(16, 1 << (chunk - 1).bit_length()),
        D=inputs.d,
        initial_states=initial,
        return_final_states=wants_state,
    )
    return y if wants_state else (y, None)
