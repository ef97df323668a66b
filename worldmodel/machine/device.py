"""What a run computes on, as read from the device itself."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import psutil
import torch

from worldmodel.errors import UserError

CPU_INFO = Path("/proc/cpuinfo")


def pick_device(wish: str = "auto") -> torch.device:
    """The device for a wish: `cpu`, `cuda` (or `cuda:1`), or `auto`, which is CUDA where there is one.

    Raises:
        UserError: CUDA is wanted and absent, or the wish names no device.
    """
    if wish == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wish != "cpu" and wish != "cuda" and not wish.startswith("cuda:"):
        raise UserError(f"device {wish!r} is unknown; expected 'auto', 'cpu' or 'cuda'")
    if wish.startswith("cuda") and not torch.cuda.is_available():
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise UserError(
            f"device {wish!r} was asked for, but torch {torch.__version__} ({build}) finds no GPU here; "
            "use device 'auto' or 'cpu', or run on a machine with an NVIDIA GPU and driver"
        )
    return torch.device(wish)


def has_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 run natively there (CPUs without AVX-512 or AMX emulate them, correctly)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return any(flag in _read_cpu_info("flags").split() for flag in ("avx512_bf16", "amx_bf16"))


def describe_device(device: torch.device | None = None) -> dict[str, Any]:
    """Name, cores and memory of `device` (default: the one `auto` picks), for the run's record.

    Memory is in bytes. CPU keys: `type`, `name`, `cores`, `memory_bytes`, `torch`; on CUDA also `gpu`, `gpus`,
    `gpu_memory_bytes`, `compute_capability`, `cuda`, and `driver` where NVIDIA's library answers.
    """
    device = device or pick_device("auto")
    found: dict[str, Any] = {
        "type": device.type,
        "name": _read_cpu_info("model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "torch": torch.__version__,
        "bfloat16": has_bfloat16(device),
    }
    return {**found, **_describe_cuda(device)} if device.type == "cuda" else found


def _describe_cuda(device: torch.device) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    return {
        "gpu": properties.name,
        "gpus": torch.cuda.device_count(),
        "gpu_memory_bytes": properties.total_memory,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "driver": _read_driver(),
    }


def _read_driver() -> str | None:
    import pynvml

    try:
        pynvml.nvmlInit()
        version = pynvml.nvmlSystemGetDriverVersion()
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None
    return version if isinstance(version, str) else str(version, "ascii")


def _read_cpu_info(key: str) -> str:
    if not CPU_INFO.exists():
        return ""
    lines = (line.partition(":") for line in CPU_INFO.read_text().splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == key), "")
