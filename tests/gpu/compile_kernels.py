"""Compiles the Triton kernels of chains for an A100, without one: ptxas makes the binary code on any machine.

Of the configurations that inductor would try, the first one is compiled.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

from tests.gpu.recorder import Recorder


def compile_kernels(recorder: Recorder) -> dict[str, str | None]:
    """Kernel to the error that its compilation ended with, of all chains that ran in a step."""
    from torch._inductor.runtime import triton_helpers

    triton_helpers.set_driver_to_gpu = lambda: None  # it looks for NVIDIA's library
    os.environ.setdefault("TRITON_CACHE_DIR", str(Path(tempfile.gettempdir()) / "worldmodel-fake-cuda/triton"))
    found: dict[str, str | None] = {}
    for chain, costs in recorder.chains.items():
        for name, code in re.findall(r"async_compile\.triton\('(\w+)', '''(.*?)'''", costs[0].source, re.DOTALL):
            found[f"{chain}: {name}"] = _compile(name, code)
    return found


def _compile(name: str, code: str) -> str | None:
    import triton
    from torch._inductor.codecache import PyCodeCache
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    try:
        kernel: Any = getattr(PyCodeCache.load(code), name)
        config = kernel.configs[0]
        meta = kernel._create_compile_meta(config)
        source = ASTSource(kernel.fn, meta["signature"], meta["constants"], meta["configs"][0])
        options = kernel._create_compile_options(config, meta)
        triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options)
    except Exception as error:  # noqa: BLE001  (whatever a compiler raises is what the test shows)
        return f"{type(error).__name__}: {error}"[:2000]
    return None
