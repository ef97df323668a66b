"""Fewer block sizes to try for mamba_ssm's kernels, which are compiled in a process's first step."""

from __future__ import annotations

import sys
from math import log2
from typing import Any

KEPT = 3
"""Configurations of each kernel that are tried."""
SIDES = {"BLOCK_SIZE_M": 64, "BLOCK_SIZE_N": 64, "BLOCK_SIZE_K": 32, "BLOCK_SIZE_CS": 32, "BLOCK_SIZE_H": 8}
SIDES |= {"BLOCK_SIZE": 512}
"""Block sizes to stay near: chunks of 32 to 128 frames and heads of 64 numbers fill them, and the operands fit into an
L4's shared memory in float32. Of two that are equally near, the smaller one stays."""


def shorten_autotune(package: str = "mamba_ssm") -> int:
    """Cut the lists of all imported kernels of a package; returns the number of configurations left.

    A scan, forward and backward, compiles 42 instead of 110. Block sizes change rounding: mamba_ssm leaves one
    configuration if MAMBA_DETERMINISTIC=1 is set before the import.
    """
    left = 0
    for kernel in find_kernels(package):
        kernel.configs = sorted(kernel.configs, key=_distance)[:KEPT]
        left += len(kernel.configs)
    return left


def find_kernels(package: str) -> list[Any]:
    """The kernels with a list of configurations, each once."""
    autotuner = sys.modules.get("triton.runtime.autotuner")
    kind: Any = getattr(autotuner, "Autotuner", ())
    modules = [module for name, module in list(sys.modules.items()) if name.split(".")[0] == package]
    found = {id(value): value for module in modules for value in vars(module).values() if isinstance(value, kind)}
    return list(found.values())


def _distance(config: Any) -> tuple[float, float, int]:
    sides = {name: log2(size) for name, size in config.kwargs.items() if name in SIDES}
    return sum(abs(side - log2(SIDES[name])) for name, side in sides.items()), sum(sides.values()), config.num_warps
