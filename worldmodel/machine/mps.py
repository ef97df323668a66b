"""CUDA's multi-process service (MPS): several processes compute on one GPU at once. `cluster/mps.sh` starts it."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

PIPES = "CUDA_MPS_PIPE_DIRECTORY"
"""Environment variable: where CUDA finds the service. It reads it once, when a process first asks for a GPU."""


def find_folder() -> Path:
    """Where `cluster/mps.sh` lets the service of this user listen."""
    return Path(f"/tmp/worldmodel-mps-{os.getuid()}")


def use_mps(share: float) -> bool:
    """Let this process use a service that runs, where it holds a part of a GPU; True if it does.

    A service that is gone would let CUDA fail, so its process is looked for.
    """
    folder = find_folder()
    try:
        is_running = psutil.pid_exists(int((folder / "nvidia-cuda-mps-control.pid").read_text()))
    except (OSError, ValueError):
        return False
    if not is_running or share >= 1:
        return False
    os.environ.setdefault(PIPES, str(folder))
    return True
