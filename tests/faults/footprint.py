"""What a process and all its children hold of the machine, sampled while they work."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import psutil

SHARED = Path("/dev/shm")
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """One sample of a tree of processes."""

    seconds: float
    """Since the first sample."""
    memory_mib: float
    """Proportional set size (memory shared by several processes counts once)."""
    threads: int
    files: int
    """Open file descriptors."""
    processes: int
    shared_mib: float
    """Bytes of files below /dev/shm that one of the processes has open or mapped, or that are new since the start."""


HELD = tuple(f.name for f in fields(Footprint) if f.name != "seconds")
"""What must not grow."""


@dataclass(kw_only=True)
class Watch:
    """Samples of a tree of processes, oldest first."""

    root: int
    """Process id of the tree's root."""
    samples: list[Footprint] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    foreign: frozenset[str] = field(default_factory=lambda: frozenset(_list_shared()))
    """Files in /dev/shm that were there before, of whoever."""

    def sample(self) -> Footprint | None:
        """Take one; None where the tree is gone."""
        try:
            root = psutil.Process(self.root)
            tree = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return None
        memory = threads = files = alive = 0
        for process in tree:
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                held = (process.memory_full_info().pss, process.num_threads(), process.num_fds())
                memory, threads, files, alive = memory + held[0], threads + held[1], files + held[2], alive + 1
        if not alive:
            return None
        shared = sum(size for name, size in _list_shared().items() if name not in self.foreign)
        found = Footprint(
            seconds=time.monotonic() - self.began, memory_mib=memory / MIB, threads=threads, files=files,
            processes=alive, shared_mib=shared / MIB,
        )  # fmt: skip
        self.samples.append(found)
        return found


@contextmanager
def watching(root: int, every: float) -> Iterator[Watch]:
    """Samples a tree of processes every so many seconds while the block lasts, from a thread."""
    watch, is_over = Watch(root=root), threading.Event()

    def keep_sampling() -> None:
        while not is_over.wait(every):
            watch.sample()

    thread = threading.Thread(target=keep_sampling, name="footprint", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        is_over.set()
        thread.join()


def grow(samples: list[Footprint], name: str) -> float:
    """How much more of something is held in the last third of the samples than in the second one, by their medians.

    The first third is not looked at: imports, caches and pools fill there.
    """
    third = len(samples) // 3
    middle, last = (
        float(np.median([getattr(s, name) for s in part]))
        for part in (samples[third : 2 * third], samples[2 * third :])
    )  # fmt: skip
    return last - middle


def _list_shared() -> dict[str, int]:
    """Bytes on the machine of each file below /dev/shm; what Ray maps sparsely counts by what it has filled."""
    found: dict[str, int] = {}
    for folder, _, names in os.walk(SHARED):
        for name in names:
            with suppress(OSError):
                path = Path(folder) / name
                found[str(path)] = path.stat().st_blocks * 512
    return found
