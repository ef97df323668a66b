"""A shorter choice of block sizes for mamba_ssm's kernels, which are compiled at a process's first step."""

from __future__ import annotations

import sys
from math import log2
from typing import Any

KEPT = 3
"""Configurations of each kernel that are tried."""
SIDES = {"BLOCK_SIZE_M": 64, "BLOCK_SIZE_N": 64, "BLOCK_SIZE_K": 32, "BLOCK_SIZE_CS": 32, "BLOCK_SIZE_H": 8}
SIDES |= {"BLOCK_SIZE": 512}
"""Tiles that chunks of 32 to 128 frames and heads of 64 numbers fill, and whose operands fit into an L4's shared memory
in float32; of two that are as near, the smaller one stays."""


def shorten_autotune(package: str = "mamba_ssm") -> int:
    """Cut the lists of all kernels that a package has imported; returns how many configurations are left.

    Scans in both directions compile 42 in place of 110 then. Rounding may differ between block sizes: with
    MAMBA_DETERMINISTIC=1, set before the import, mamba_ssm itself leaves one.
    """
    left = 0
    for kernel in find_kernels(package):
        kernel.configs = sorted(kernel.configs, key=_distance)[:KEPT]
        left += len(kernel.configs)
    return left


def find_kernels(package: str) -> list[Any]:
    """The kernels with a list of configurations, each once."""
    from triton.runtime.autotuner import Autotuner

    modules = [module for name, module in list(sys.modules.items()) if name.split(".")[0] == package]
    found = {id(value): value for module in modules for value in vars(module).values() if isinstance(value, Autotuner)}
    return list(found.values())


def _distance(config: Any) -> tuple[float, float, int]:
    sides = {name: log2(size) for name, size in config.kwargs.items() if name in SIDES}
    return sum(abs(side - log2(SIDES[name])) for name, side in sides.items()), sum(sides.values()), config.num_warps
