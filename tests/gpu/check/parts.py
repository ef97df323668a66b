"""The parts of the check, in order, each with its own time limit. They share nothing but toy games on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

from tests.gpu.check.report import Report

State = Literal["passed", "failed", "skipped", "timed out"]
TOTAL_SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the check."""

    name: str
    work: str
    """Module beside this file and function in it, as "module.function"."""
    seconds: int
    """Time limit; the part's process is killed after it."""
    about: str
    """Heading on the page."""
    needs_gpu: bool = False
    """False: without a GPU a small form runs on the CPU."""

    def load(self) -> Callable[[Report], str | None]:
        """Import the function. It takes a report and returns a summary, or None for a count of rows."""
        module, _, function = self.work.partition(".")
        found: Callable[[Report], str | None] = getattr(import_module(f"tests.gpu.check.{module}"), function)
        return found


def _part(name: str, work: str, seconds: int, about: str, *, needs_gpu: bool = False) -> Part:
    return Part(name=name, work=work, seconds=seconds, about=about, needs_gpu=needs_gpu)


PARTS = (
    _part("machine", "machine.examine", 20, "Driver, torch build, Triton, NVML, matrix products"),
    _part("parity", "parity.compare_blocks", 80, "Kernels against plain torch, forward and backward"),
    _part("fused", "parity.compare_fused", 45, "Compiled chains against the same chains in plain torch"),
    _part("losses", "training.compare_losses", 50, "20 training losses against the CPU's"),
    _part("steps", "training.measure_steps", 70, "Training steps without torch.compile"),
    _part("launches", "training.count_launches", 25, "Launches, copies, waits and kernels of a step"),
    _part("compiled", "training.measure_compiled", 40, "Training steps with torch.compile", needs_gpu=True),
    _part("chunks", "parity.compare_chunks", 40, "Chunk sizes of the scan"),
    _part("streaming", "stores.compare_streaming", 30, "Frames on the device against streamed frames"),
    _part("large-store", "stores.reach_far_rows", 15, "A store above 2^31 elements"),
    _part("memory", "memory.fill_memory", 30, "Full memory and --auto-batch"),
    _part("shares", "memory.share_gpu", 30, "Four processes at a quarter of the GPU"),
    _part("resume", "runs.resume_exactly", 50, "Checkpoint, kill, resume bit for bit"),
    _part("command", "runs.run_command", 20, "worldmodel train --auto-batch"),
    _part("workers", "runs.run_workers", 40, "worldmodel train --workers 2, where there are two GPUs or none"),
    _part("gauges", "machine.compare_gauges", 15, "Gauges against NVML"),
)
"""In order of importance: a session that ends early has the first ones."""
