"""How a machine is at a moment: what a record keeps, so that it says how things stood when a run ended."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import psutil
import torch

from worldmodel.machine.gpu import Gpu
from worldmodel.machine.process import count_memory_kills

CGROUP = Path("/sys/fs/cgroup")
GIB = 2**30


def describe_state(gpu: Gpu | None = None, folder: Path | None = None) -> dict[str, Any]:
    """Memory, load and disk of this machine now, and its GPU's memory, in bytes and shares.

    Args:
        gpu: the one that is computed on.
        folder: where the run writes, on a local disk.
    """
    memory = psutil.virtual_memory()
    found: dict[str, Any] = {
        "process_bytes": psutil.Process().memory_info().rss,
        "memory_available_bytes": memory.available,
        "memory_bytes": memory.total,
        "container_bytes": _read_number(CGROUP / "memory.current"),
        "container_limit_bytes": _read_number(CGROUP / "memory.max"),
        "memory_kills": count_memory_kills(),
        "load": round(os.getloadavg()[0], 2),
        "disk_free_bytes": _measure_disk(folder),
    }
    if gpu is not None:
        found |= {"gpu_used_bytes": gpu.read_memory(), "gpu_use": gpu.read_use()}
        found |= {"torch_bytes": torch.cuda.memory_allocated(gpu.device)}
        found |= {"torch_peak_bytes": torch.cuda.max_memory_allocated(gpu.device)}
    return {name: value for name, value in found.items() if value is not None}


def render_state(state: dict[str, Any]) -> str:
    """The state in a line."""
    words = {
        "process_bytes": "the process held", "memory_available_bytes": "memory free", "memory_bytes": "of",
        "container_bytes": "its container held", "container_limit_bytes": "of at most",
        "gpu_used_bytes": "GPU memory taken", "torch_peak_bytes": "at most held by the run on the GPU",
        "disk_free_bytes": "disk free",
    }  # fmt: skip
    parts = [f"{text} {state[name] / GIB:.3g} GiB" for name, text in words.items() if name in state]
    return ", ".join(parts)


def find_memory_kill(state: dict[str, Any]) -> str:
    """What speaks for a lack of memory as the cause of a process's end after it wrote `state`; empty: nothing does."""
    before, now = state.get("memory_kills"), count_memory_kills()
    if before is not None and now is not None and now > before:
        return "this machine has killed a process for lack of memory since: use a smaller batch or a larger machine"
    return ""


def _read_number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _measure_disk(folder: Path | None) -> int | None:
    try:
        return shutil.disk_usage(folder).free if folder else None
    except OSError:
        return None
