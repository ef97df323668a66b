"""What a run computes on, as read from the device itself."""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import psutil
import torch

from worldmodel.errors import UserError

CPU_INFO = Path("/proc/cpuinfo")
OLDEST_DRIVERS = {"12": 525, "13": 580}
"""CUDA's major version to the oldest major version of a driver that runs it, by NVIDIA's table."""


def pick_device(wish: str = "auto") -> torch.device:
    """The device for a wish: `cpu`, `cuda` (or `cuda:1`), or `auto`, which is CUDA where there is one.

    A GPU always has its number: a bare "cuda" is the current device of whichever thread uses it.

    Raises:
        UserError: CUDA is wanted and absent, or the wish names no device.
    """
    if wish not in ("auto", "cpu", "cuda") and not wish.startswith("cuda:"):
        raise UserError(f"device {wish!r} is unknown; expected 'auto', 'cpu' or 'cuda'")
    if wish == "cpu" or (wish == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            f"device {wish!r} was asked for, but {explain_absent_gpu()}; use device 'auto' or 'cpu', or run on a "
            "machine with an NVIDIA GPU and driver"
        )
    prepare_environment()
    found = torch.device("cuda" if wish == "auto" else wish)
    return found if found.index is not None else torch.device("cuda", torch.cuda.current_device())


def explain_absent_gpu() -> str:
    """The reason why torch finds no GPU on this machine, with a remedy if there is one."""
    version = torch.version.cuda
    if version is None:
        return f"torch {torch.__version__} (built without CUDA) finds no GPU here"
    head, driver = f"torch {torch.__version__} (built for CUDA {version}) finds no GPU here", _read_driver()
    oldest = OLDEST_DRIVERS.get(version.split(".")[0])
    if driver and oldest and int(driver.split(".")[0]) < oldest:
        return (
            f"{head}: found NVIDIA driver {driver}, expected {oldest} or newer. Update the driver, or install torch's "
            "build for older ones: pip install torch --index-url https://download.pytorch.org/whl/cu126"
        )
    return head


def note_idle_gpu(wish: str, found: str) -> list[str]:
    """A note if `auto` picks the CPU although the machine has a GPU driver."""
    if wish != "auto" or found != "cpu" or torch.version.cuda is None or not _read_driver():
        return []
    return [f"training on the CPU: {explain_absent_gpu()}"]


def prepare_environment() -> None:
    """Set the environment variables that CUDA, Triton and inductor read when they start; the user's own values stay.

    Compiled kernels stay in a folder of this machine, for the next process.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "worldmodel"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        cache = Path(tempfile.gettempdir()) / f"worldmodel-{os.getuid()}"
    os.environ.setdefault("TRITON_CACHE_DIR", str(cache / "triton"))
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "inductor"))
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it once: for `training.deterministic`


def set_up_device(device: torch.device, *, deterministic: bool = False) -> None:
    """Set this process and thread up for training on a device. Call it again before the next training.

    Args:
        device: from `pick_device` or Ray.
        deterministic: `training.deterministic`. CPU training is deterministic without it.
    """
    if device.type != "cuda":
        return
    prepare_environment()
    torch.cuda.set_device(device)
    torch.set_float32_matmul_precision("high")  # TF32 in float32 products: eight times as fast on an A100
    torch.use_deterministic_algorithms(deterministic)  # inductor chooses no kernel by its time then
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    for name in ("MAMBA_DETERMINISTIC", "CAUSAL_CONV1D_DETERMINISTIC"):
        os.environ[name] = str(int(deterministic))  # no atomic sums, and one block size of each kernel
    os.environ["TRITON_CACHE_AUTOTUNING"] = str(int(not deterministic))  # else those that were fastest here before


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
