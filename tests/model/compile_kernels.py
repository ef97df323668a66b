"""Compiles our Triton kernels for GPUs, without one. Prints a line of JSON: GPU and kernel to bytes of its program."""

from __future__ import annotations

import json

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from worldmodel.model import triton_kernels

SIZES = {"K": 4, "L": 64, "P": 64, "N": 64, "BP": 64, "BN": 64, "EACH": 4, "BLOCK": 32}
NARROW = {"X", "Y", "XBC", "DT", "DY", "DX", "DDT", "Z", "OUT", "DOUT", "DZ"}
PRECISE = {"W", "B", "dt_bias", "A_log", "D", "PARTS", "SHARED"}
GPUS = {"A100": 80, "L4": 89, "H100": 90}
KERNELS = ("convolve_forward", "convolve_backward", "scan_forward", "scan_backward", "gate_forward", "gate_backward")


def compile_kernel(kernel: triton.JITFunction, kind: str, capability: int) -> int:
    """Bytes of a kernel's program for tensors of a type."""
    sizes = {**SIZES, "BLOCK": 1024} if kernel.__name__.startswith("gate") else SIZES
    signature, constants = {}, {}
    for parameter in kernel.params:
        name = parameter.name
        if parameter.is_constexpr:
            signature[name], constants[name] = "constexpr", sizes[name]
        else:
            signature[name] = f"*{kind}" if name in NARROW else "*fp32" if name in PRECISE else "i32"
    signature |= {"epsilon": "fp32"} if "epsilon" in signature else {}
    source = ASTSource(kernel, signature, constants)
    return len(triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"])


if __name__ == "__main__":
    print(
        json.dumps(
            {
                f"{gpu} {kind}": {name: compile_kernel(getattr(triton_kernels, name), kind, number) for name in KERNELS}
                for gpu, number in GPUS.items()
                for kind in ("bf16", "fp32")
            }
        )
    )
