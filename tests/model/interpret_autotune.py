"""Runs mamba_ssm's Triton kernels on a CPU with each of the configurations that `shorten_autotune` leaves.

A process of its own, as `interpret_kernels.py`. Prints counts, then the differences from plain torch by configuration.
"""

from __future__ import annotations

import json
from unittest import mock

import torch

from tests.model.interpret_kernels import SCANS, compare_scans, pretend_gpu
from worldmodel.model import kernels
from worldmodel.model.autotune import find_kernels, shorten_autotune


def measure_operands(sides: dict[str, int], stages: int) -> int:
    """Bytes of a product's two tiles in float32, as often as they are loaded ahead."""
    m, n = sides.get("BLOCK_SIZE_M", 1), sides.get("BLOCK_SIZE_N", 1)
    return (m + n) * sides.get("BLOCK_SIZE_K", sides.get("BLOCK_SIZE_CS", 1)) * 4 * stages


if __name__ == "__main__":
    pretend_gpu()
    torch.set_num_threads(1)
    with mock.patch.object(kernels, "shorten_autotune"):
        kernels.import_scan()
    before = sum(len(kernel.configs) for kernel in find_kernels("mamba_ssm"))
    counts = {"before": before, "after": shorten_autotune()}
    kept = {kernel: kernel.configs for kernel in find_kernels("mamba_ssm")}
    counts["most"] = max(map(len, kept.values()))
    counts["bytes"] = max(measure_operands(c.kwargs, c.num_stages) for configs in kept.values() for c in configs)
    found: dict[str, dict[str, float]] = {"counts": dict(counts)}
    for number in range(counts["most"]):
        for kernel, configs in kept.items():
            kernel.configs = [configs[number % len(configs)]]
        found[f"configuration {number}"] = compare_scans(SCANS["state before and behind"])
    print(json.dumps(found))
