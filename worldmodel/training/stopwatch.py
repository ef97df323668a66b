"""Where the time of steps goes: waiting for data, work of the host, work of the device.

On a CPU host and device are one, and all that is not waiting is computing. A GPU works while the host goes on, so its
share and the host's overlap: a device share near 1 means that the GPU is the limit, a host share near 1 that Python
cannot launch work as fast as the GPU does it. Nothing here waits for the device: events are read once the loop has
waited for another reason.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Shares (0 to 1) of the wall clock of some steps."""

    data: float
    """Waiting for data."""
    host: float | None
    """The host's own work: Python, and launching what the device is to do; None: host and device are one."""
    device: float | None
    """From a step's first to its last work on the device, idle moments between two kernels included; None: as above."""


class Stopwatch:
    """Measures the steps of one interval."""

    def __init__(self, device: torch.device) -> None:
        self._is_apart = device.type == "cuda"
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._launching: float | None = None
        self.steps = 0
        self.data_seconds = 0.0
        self.began = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While data are waited for."""
        began = time.perf_counter()
        yield
        self.data_seconds += time.perf_counter() - began

    @contextmanager
    def computing(self) -> Iterator[None]:
        """While a step is computed, or launched."""
        began = time.perf_counter()
        if self._is_apart:
            first, last = make_event(), make_event()
            first.record()
            yield
            last.record()
            self._events.append((first, last))
        else:
            yield
        self.steps += 1
        if self._launching is None:  # the device is idle at an interval's start, so nothing here waits for it
            self._launching = time.perf_counter() - began

    @property
    def seconds(self) -> float:
        """Wall clock since the interval began."""
        return time.perf_counter() - self.began

    def read(self) -> Shares:
        """The shares so far; on a GPU once it has been waited for."""
        seconds = self.seconds
        data = self.data_seconds / seconds
        if not self._is_apart or not self._events or self._launching is None:
            return Shares(data=data, host=None, device=None)
        device = sum(first.elapsed_time(last) for first, last in self._events) / 1000
        host = self._launching * self.steps / seconds
        return Shares(data=data, host=min(1.0, host), device=min(1.0, device / seconds))


def make_event() -> torch.cuda.Event:
    """A moment on the device, to be recorded."""
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
