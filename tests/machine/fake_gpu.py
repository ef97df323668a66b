"""A GPU that only answers questions: what torch and NVIDIA's library would say of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch

GIB = 2**30
OWN_VARIABLES = (
    "TRITON_CACHE_DIR", "TRITON_CACHE_AUTOTUNING", "TORCHINDUCTOR_CACHE_DIR", "CUBLAS_WORKSPACE_CONFIG",
    "MAMBA_DETERMINISTIC", "CAUSAL_CONV1D_DETERMINISTIC",
)  # fmt: skip


@dataclass
class FakeGpu:
    """An A100 with 40 GB; bytes as its driver tells them."""

    total: int = 42_298_834_944
    others: int = 0
    """Held by other processes."""
    own: int = 0
    allocated: int = 0
    peak: int = 0
    number: int = 0
    """The thread's current device."""
    bfloat16: bool = True
    fraction: float = 1.0
    calls: list[str] = field(default_factory=list)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
        """Take torch.cuda's place until the test ends; what torch keeps of a set-up is restored too."""
        answers = {
            "is_available": lambda: True, "is_initialized": lambda: True, "current_device": lambda: self.number,
            "mem_get_info": lambda device: (self.total - self.others - self.own, self.total),
            "memory_reserved": lambda device: self.own, "memory_allocated": lambda device: self.allocated,
            "max_memory_allocated": lambda device: self.peak, "reset_peak_memory_stats": lambda device: None,
            "get_device_properties": lambda device: SimpleNamespace(
                name="NVIDIA A100-SXM4-40GB", total_memory=self.total, major=8, minor=0, uuid="u"
            ),
            "is_bf16_supported": lambda including_emulation: self.bfloat16,
            "get_per_process_memory_fraction": lambda device: self.fraction,
            "set_per_process_memory_fraction": self._limit, "empty_cache": lambda: self.calls.append("empty_cache"),
            "set_device": lambda device: self.calls.append(f"set_device {device}"),
        }  # fmt: skip
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, answer)
        for name in ("use_deterministic_algorithms", "set_float32_matmul_precision"):
            monkeypatch.setattr(torch, name, lambda value, name=name: self.calls.append(f"{name} {value}"))
        for name in OWN_VARIABLES:
            monkeypatch.setenv(name, "")  # remembers what it was
            os.environ.pop(name)
        return self

    def _limit(self, fraction: float, device: torch.device) -> None:
        assert isinstance(fraction, float) and device.index is not None
        self.fraction = fraction
