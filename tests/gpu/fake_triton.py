"""Triton for a fake A100: host code runs, kernels are recorded and not launched. Import after `fake_cuda`."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from tests.gpu import fake_cuda


@dataclass(frozen=True)
class Launch:
    """A Triton kernel that would have been launched."""

    kernel: str
    bytes: int
    """Of all tensors it is given, each once."""
    configs: int
    """Configurations that autotuning would try."""


launches: list[Launch] = []


class _Driver:
    """Triton's driver of a fake A100."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 80, 32)

    def get_current_device(self) -> int:
        return int(fake_cuda.get_device())

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", self.get_current_device())


def _record(kernel: Any, args: tuple[Any, ...], options: dict[str, Any], configs: int) -> None:
    named = {**dict(zip(kernel.arg_names, args, strict=False)), **options}
    tensors = [value for value in named.values() if isinstance(value, Tensor)]
    for tensor in tensors:
        if tensor.device != torch.device("cuda", fake_cuda.get_device()):
            raise RuntimeError(f"{kernel.__name__} is given a tensor on {tensor.device}, and runs on another device")
    launches.append(Launch(kernel.__name__, sum(t.numel() * t.element_size() for t in tensors), configs))


def install() -> bool:
    """Let Triton record. False: Triton is not installed."""
    if find_spec("triton") is None:
        return False
    import triton
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.jit import JITFunction

    def run_kernel(self: Any, *args: Any, grid: Any, warmup: bool = False, **options: Any) -> None:
        given = inspect.getcallargs(self.fn, *args, **{k: v for k, v in options.items() if k in self.arg_names})
        if callable(grid):
            grid(given)
        _record(self, args, options, options.pop("_configs", 1))

    def run_tuned(self: Any, *args: Any, **options: Any) -> None:
        config = self.best_config = self.configs[0]
        named = {**dict(zip(self.arg_names, args, strict=False)), **options, **config.kwargs}
        config.pre_hook and config.pre_hook(named)
        self.fn.run(*args, **options, **config.kwargs, _configs=len(self.configs))

    triton.runtime.driver.set_active(_Driver())
    JITFunction.run, Autotuner.run = run_kernel, run_tuned
    return True
