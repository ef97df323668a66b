"""CUDA's multi-process service (MPS): several processes compute on one GPU at once. `cluster/mps.sh` starts it."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

PIPES = "CUDA_MPS_PIPE_DIRECTORY"
"""Environment variable that tells CUDA where the service is; read once, when a process first uses a GPU."""


def find_folder() -> Path:
    """The folder of this user's service, as in `cluster/mps.sh`."""
    return Path(f"/tmp/worldmodel-mps-{os.getuid()}")


def use_mps(share: float) -> bool:
    """Use a running service if this process holds a part of a GPU; True if it does. Call it before CUDA starts.

    CUDA would fail on the files of a service that has ended, so the service's process is checked.
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
