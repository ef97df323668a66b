"""How busy and how full a GPU is, from NVIDIA's management library (NVML)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Gpu:
    """One GPU, open to be asked."""

    handle: Any
    """NVML's own name of it."""
    device: torch.device
    """Torch's, numbered: who reads it may be a thread with another current device."""

    @classmethod
    def open(cls, device: torch.device) -> Gpu | None:
        """The GPU that torch computes on; None for a CPU, and where the library is absent or does not know it.

        It is found by its id, never by its number: numbers here depend on CUDA_VISIBLE_DEVICES, which NVML does not
        read.
        """
        if device.type != "cuda":
            return None
        import pynvml

        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return None
        own = torch.cuda.get_device_properties(device).uuid
        for kind in ("GPU", "MIG"):
            try:
                return cls(pynvml.nvmlDeviceGetHandleByUUID(f"{kind}-{own}"), device)
            except pynvml.NVMLError:
                continue
        pynvml.nvmlShutdown()
        return None

    def read_use(self) -> float | None:
        """Share (0 to 1) of the last moments in which it computed, for whomever; None: it does not say (MIG)."""
        import pynvml

        try:
            return float(pynvml.nvmlDeviceGetUtilizationRates(self.handle).gpu) / 100
        except pynvml.NVMLError:
            return None

    def read_memory(self) -> float | None:
        """Bytes of its memory that are taken, by whomever; None: it does not say."""
        import pynvml

        try:
            return float(pynvml.nvmlDeviceGetMemoryInfo(self.handle).used)
        except pynvml.NVMLError:
            return None

    def close(self) -> None:
        """Let the library go; another failure of it is of no interest."""
        import pynvml

        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError:
            return
