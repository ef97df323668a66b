"""A process's part of a GPU's memory: its limit, its free part, and the memory of other processes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from worldmodel.errors import UserError

GIB = 2**30
CONTEXT_BYTES = 768 << 20
"""GPU memory of a process outside torch's allocator: CUDA's context, libraries, kernels. Assumed, not measured."""
LEAST_BYTES = 1 << 30
"""Free memory below which training does not start."""
REMEDY = "end them (nvidia-smi lists them), choose another GPU with CUDA_VISIBLE_DEVICES, or wait"


@dataclass(frozen=True, kw_only=True)
class GpuMemory:
    """A GPU's memory as one process sees it, in bytes."""

    name: str
    total: int
    free: int
    """Bytes that no process holds."""
    own: int
    """Held by this process's torch."""
    limit: int
    """The most that this process's torch may hold."""

    @classmethod
    def measure(cls, device: torch.device) -> GpuMemory:
        """The memory of a CUDA device now. UserError if other processes leave no room for CUDA itself."""
        name = torch.cuda.get_device_properties(device).name
        try:
            free, total = torch.cuda.mem_get_info(device)
        except RuntimeError as error:
            if "out of memory" not in str(error) and "busy" not in str(error):
                raise
            raise UserError(f"{name} takes no other process ({str(error).splitlines()[0]}): {REMEDY}") from error
        limit = int(torch.cuda.get_per_process_memory_fraction(device) * total)
        return cls(name=name, total=total, free=free, own=torch.cuda.memory_reserved(device), limit=limit)

    @property
    def room(self) -> int:
        """Bytes that this process may still take."""
        return max(0, min(self.free, self.limit - self.own))

    @property
    def is_shared(self) -> bool:
        """True if this process has a part of the GPU only."""
        return self.limit < self.total

    @property
    def others(self) -> int:
        """Bytes that other processes hold."""
        return max(0, self.total - self.free - self.own - CONTEXT_BYTES)

    @property
    def is_crowded(self) -> bool:
        """True if other processes hold a part of this one's limit."""
        return self.others > self.total - self.limit + CONTEXT_BYTES

    def describe(self) -> str:
        """Name and size, for a message."""
        if self.is_shared:
            return f"a share of {self.name} ({self.limit / GIB:.1f} of {self.total / GIB:.0f} GiB)"
        return f"{self.name} ({self.total / GIB:.0f} GiB)"

    def propose_share(self, needed: int) -> str:
        """Smallest share with room for `needed` bytes of tensors, for a message; empty if the whole GPU has none."""
        share = math.ceil((needed + CONTEXT_BYTES) / self.total * 100) / 100
        return f"{share:g}" if share <= 1 else ""

    def explain_others(self) -> str:
        """Memory of other processes and the remedy; empty if they leave this process its limit."""
        if not self.is_crowded:
            return ""
        return f"other processes hold {self.others / GIB:.1f} of {self.total / GIB:.0f} GiB of {self.name}: {REMEDY}"


def limit_memory(device: torch.device, share: float) -> None:
    """Limit this process's torch to its share of a GPU. Call it again before the next training.

    UserError if the share has no room for CUDA itself, or if other processes fill the GPU.
    """
    if device.type != "cuda":
        return
    memory = GpuMemory.measure(device)
    allowed = 1.0 if share >= 1 else share - CONTEXT_BYTES / memory.total
    if allowed * memory.total < LEAST_BYTES:
        least = memory.propose_share(LEAST_BYTES)
        raise UserError(
            f"a share of {share:g} of {memory.name} is {share * memory.total / GIB:.1f} GiB: expected at least "
            f"{least}, for CUDA itself and a small model; ask for more: `tune/grid.py --gpus-per-trial SHARE`"
        )
    torch.cuda.set_per_process_memory_fraction(float(allowed), device)
    memory = GpuMemory.measure(device)
    if memory.free + memory.own < LEAST_BYTES and memory.others:
        raise UserError(
            f"{memory.name} is full: other processes hold {memory.others / GIB:.1f} of {memory.total / GIB:.0f} GiB; "
            f"{REMEDY}"
        )
