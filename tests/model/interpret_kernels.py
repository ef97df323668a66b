"""Runs mamba_ssm's Triton kernels on a CPU (TRITON_INTERPRET=1) and compares them with the plain-torch scan.

A process of its own, because it replaces parts of torch and Triton. Prints a JSON line of largest differences.
"""

from __future__ import annotations

import contextlib
import json
import sys
import types
from dataclasses import fields
from importlib.machinery import ModuleSpec
from importlib.util import find_spec

import torch
from torch import Tensor


def prepare() -> None:
    """What the kernels expect of a GPU machine: a package without its CUDA extension, and a device."""
    spec = find_spec("mamba_ssm")
    assert spec is not None and spec.submodule_search_locations is not None
    package = types.ModuleType("mamba_ssm")
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = ModuleSpec("mamba_ssm", None, is_package=True)
    sys.modules["mamba_ssm"] = package
    torch.cuda.device = lambda *_: contextlib.nullcontext()  # type: ignore[assignment,misc,return-value]
    torch.cuda.get_device_properties = lambda *_: types.SimpleNamespace(multi_processor_count=1)  # type: ignore[assignment,misc,return-value]
    import triton.runtime.autotuner as autotuner

    initialise = autotuner.Autotuner.__init__

    def keep_one(self: autotuner.Autotuner, *args: object, **options: object) -> None:
        initialise(self, *args, **options)
        self.configs = self.configs[:1]

    autotuner.Autotuner.__init__ = keep_one


def compare(length: int, has_state: bool) -> dict[str, float]:
    """Largest differences between the two backends' outputs, final states and gradients, relative to their size."""
    from worldmodel.model import kernels, scan

    draw = torch.Generator().manual_seed(length)
    batch, heads, width, state = 2, 2, 16, 16
    inputs = {
        "x": torch.randn(batch, length, heads, width, generator=draw),
        "dt": torch.rand(batch, length, heads, generator=draw),
        "a": -torch.rand(heads, generator=draw) * 4,
        "b": torch.randn(batch, length, state, generator=draw),
        "c": torch.randn(batch, length, state, generator=draw),
        "d": torch.randn(heads, generator=draw),
    }
    assert inputs.keys() == {f.name for f in fields(scan.ScanInputs)}
    start = torch.randn(batch, heads, width, state, generator=draw) if has_state else None
    found: list[list[Tensor]] = []
    for module in (kernels, scan):
        leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
        y, final = module.scan_chunks(scan.ScanInputs(**leaves), 16, start, wants_state=True)
        (y.sin().sum() + final.square().sum()).backward()
        found.append([y.detach(), final.detach(), *(leaf.grad for leaf in leaves.values())])
    names = ["y", "final", *inputs]
    pairs = zip(names, *found, strict=True)
    return {name: float((ours - theirs).abs().max() / theirs.abs().max()) for name, ours, theirs in pairs}


if __name__ == "__main__":
    prepare()
    print(
        json.dumps(
            {f"{length}, {has_state}": compare(length, has_state) for length, has_state in [(16, False), (37, True)]}
        )
    )
