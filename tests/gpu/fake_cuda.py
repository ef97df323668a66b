"""Two fake A100s for a CPU build of torch. Import this module before torch.

Under FakeTensorMode tensors have shapes and devices, and no values. A CPU build lacks a CUDA device guard, which
autograd needs: `guard.cpp` registers one. g++ compiles it once into the temporary folder. The module also replaces what
`torch.cuda` asks of a driver, so it belongs in a process of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

assert "torch" not in sys.modules, "import tests.gpu.fake_cuda before torch"
_SOURCE = Path(__file__).with_name("guard.cpp")


def build(torch_folder: Path) -> Path:
    """The compiled guard for this torch."""
    version = (torch_folder / "version.py").read_bytes()
    key = hashlib.sha256(_SOURCE.read_bytes() + version + str(torch_folder).encode()).hexdigest()[:12]
    library = Path(tempfile.gettempdir()) / f"fake-cuda-{key}.so"
    if library.exists():
        return library
    include, part = torch_folder / "include", library.with_suffix(f".{os.getpid()}")
    command = [
        "g++", "-std=c++20", "-O0", "-shared", "-fPIC", "-o", str(part), str(_SOURCE), f"-I{include}",
        f"-I{include}/torch/csrc/api/include", f"-L{torch_folder}/lib", "-lc10", "-ltorch_cpu",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    part.replace(library)
    return library


def _load() -> ctypes.CDLL:
    spec = importlib.util.find_spec("torch")
    assert spec and spec.origin
    folder = Path(spec.origin).parent
    for name in ("libtorch_global_deps.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(folder / "lib" / name), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(build(folder)), mode=ctypes.RTLD_GLOBAL)


_guard = _load()
set_device, get_device = _guard.fake_set_device, _guard.fake_get_device

import torch  # noqa: E402  (after the guard)
import torch._dynamo  # noqa: E402  (before torch.cuda is replaced)
import torch._higher_order_ops  # noqa: E402
import torch.utils._foreach_utils as _foreach  # noqa: E402
from torch._dynamo.device_interface import CudaInterface  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode  # noqa: E402

GPUS = 2
A100 = SimpleNamespace(
    name="NVIDIA A100-SXM4-80GB", major=8, minor=0, multi_processor_count=108, total_memory=80 << 30, warp_size=32,
    max_threads_per_multi_processor=2048, max_threads_per_block=1024, regs_per_multiprocessor=65536, gcnArchName="",
    L2_cache_size=40 << 20, shared_memory_per_block=49152, shared_memory_per_block_optin=166912, type="cuda",
)  # fmt: skip


class Device(contextlib.AbstractContextManager[None]):
    """torch.cuda.device: another current device for a while."""

    def __init__(self, device: Any = None) -> None:
        self.index = device if isinstance(device, int) else torch.device(device).index if device is not None else None

    def __enter__(self) -> None:
        self.before = get_device()
        if self.index is not None and self.index >= 0:
            set_device(self.index)

    def __exit__(self, *error: object) -> None:
        set_device(self.before)


class Moment:
    """torch.cuda.Event and torch.cuda.Stream: they order nothing."""

    def __init__(self, *args: object, **options: object) -> None:
        self.device, self.cuda_stream, self.stream_id = torch.device("cuda", get_device()), 0, 0

    def __enter__(self) -> Moment:
        return self

    def __exit__(self, *error: object) -> None: ...

    def _nothing(self, *args: object, **options: object) -> None: ...

    record = wait = wait_stream = wait_event = _nothing

    def record_event(self, event: Any = None) -> Any:
        return event or Moment()

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: object) -> float:
        return 1.0

    def synchronize(self) -> None:
        torch.cuda.synchronize()


class Graph:
    """torch.cuda.CUDAGraph: its replay launches nothing."""

    is_capturing = False

    def pool(self) -> object:
        return self

    def replay(self) -> None: ...


@contextlib.contextmanager
def capture(graph: Graph, **options: Any) -> Iterator[None]:
    """torch.cuda.graph: while it lasts, the recorder refuses what waits for the GPU."""
    Graph.is_capturing = True
    try:
        yield
    finally:
        Graph.is_capturing = False


def _choose(device: Any) -> None:
    index = device if isinstance(device, int) else torch.device(device).index
    if index is not None and index >= 0:
        set_device(index)


def _replace_cuda() -> None:
    cuda: Any = torch.cuda
    answers = {
        "is_available": True, "is_initialized": True, "is_bf16_supported": True, "device_count": GPUS,
        "get_device_properties": A100, "get_device_capability": (8, 0), "get_device_name": A100.name,
        "mem_get_info": (A100.total_memory, A100.total_memory), "memory_allocated": 0, "memory_reserved": 0,
        "max_memory_allocated": 0, "max_memory_reserved": 0, "empty_cache": None, "synchronize": None,
        "reset_peak_memory_stats": None, "set_per_process_memory_fraction": None,
        "get_per_process_memory_fraction": 1.0, "manual_seed_all": None,
        "manual_seed": None, "_lazy_init": None, "set_rng_state": None,
    }  # fmt: skip
    for name, answer in answers.items():
        setattr(cuda, name, lambda *args, answer=answer, **options: answer)
    cuda.get_rng_state = lambda *args, **options: torch.zeros(16, dtype=torch.uint8)
    cuda.current_device, cuda.set_device, cuda.device = get_device, _choose, Device
    cuda.Event = cuda.Stream = Moment
    cuda.CUDAGraph, cuda.graph, cuda.is_current_stream_capturing = Graph, capture, lambda: Graph.is_capturing
    cuda.stream = lambda stream: contextlib.nullcontext()
    cuda.current_stream = cuda.default_stream = Moment
    FakeTensorMode.avoid_device_init = True  # type: ignore[assignment,method-assign]  # there is no driver to start
    setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)  # noqa: B010
    cuda.amp.common.amp_definitely_not_available = lambda: False
    for owner in (CudaInterface, CudaInterface.Worker):
        for name in ("get_device_properties", "current_device", "is_available", "device_count"):
            if hasattr(owner, name):
                setattr(owner, name, staticmethod(getattr(cuda, name)))
    setattr(CudaInterface, "get_compute_capability", staticmethod(lambda *args: 80))  # noqa: B010


def _add_operators() -> None:
    """What a CUDA build has as one kernel, and a CPU build as several or for its own tensors only."""
    tools: Any = _foreach
    tools._foreach_supported_types.append(FakeTensor)
    tools._get_foreach_kernels_supported_devices = lambda: ["cuda"]
    tools._get_fused_kernels_supported_devices = lambda: ["cuda", "cpu"]
    library = torch.library.Library("aten", "IMPL")
    library.impl("silu_backward", lambda gradient, x: torch.empty_like(x), "CUDA")
    library.impl("_fused_adamw_.tensor_lr", lambda *args, **options: None, "Meta")
    _keep.append(library)


_keep: list[Any] = []
_replace_cuda()
_add_operators()
