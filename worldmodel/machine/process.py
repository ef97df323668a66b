"""Which process something was written by, and whether it still lives: told only where that can be known."""

from __future__ import annotations

import ctypes
import gc
import os
import socket
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

PROC = Path("/proc")


@cache
def name_space() -> str:
    """What process numbers here are numbers of: this boot of this machine, and this container. Empty: unknown."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {(PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return ""


def read_start(pid: int) -> int | None:
    """When a process began, in the machine's own ticks, which no clock changes; None: it is gone, or nothing says."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    state, *rest = text.rpartition(")")[2].split()
    return None if state in "ZX" else int(rest[18])  # a process that has ended and was not asked for yet


def read_uptime() -> float | None:
    """Seconds since this machine was started, which go on whatever its clock is set to; None: it does not say."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return None if clock is None else round(time.clock_gettime(clock), 3)


def is_this_boot(host: str, space: str) -> bool:
    """Whether something was written on this machine since it was started."""
    return bool(space) and host == socket.gethostname() and space.split()[0] == name_space().partition(" ")[0]


def identify() -> dict[str, object]:
    """What names this process, as fields of `worldmodel.run.record.Living` but `hosts`."""
    return {"pid": os.getpid(), "pid_space": name_space(), "pid_start": read_start(os.getpid())}


def is_gone(host: str, pid: int, space: str, start: int | None) -> bool:
    """Whether a process was on this machine and is no more. False as well where that cannot be known from here."""
    if host != socket.gethostname() or (space and space != name_space()):
        return False
    if not space or start is None:
        return not psutil.pid_exists(pid)
    return read_start(pid) != start


def count_memory_kills() -> int | None:
    """Processes that this machine has killed for lack of memory since it was started; None: it does not say."""
    try:
        lines = (PROC / "vmstat").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def release_memory() -> None:
    """Give back what ended work has left: uncollected cycles, pages that malloc keeps, GPU memory that torch keeps.

    A process that trains one model after another would hold hundreds of MiB more of them, and gigabytes of a GPU's.
    """
    gc.collect()
    torch = sys.modules.get("torch")  # imported by whoever has used a GPU
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # a C library that is not glibc's
        ctypes.CDLL(None).malloc_trim(0)
