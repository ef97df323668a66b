"""Counts what a step would do on a GPU: launches, memory traffic, matrix products, waits."""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.gpu import fake_triton

VIEWS = frozenset(
    "view _unsafe_view transpose t permute slice select expand unsqueeze squeeze split split_with_sizes as_strided detach "
    "alias unbind unfold reshape diagonal lift_fresh _reshape_alias unflatten empty empty_like empty_strided new_empty "
    "new_empty_strided chunk narrow movedim numpy_T mT view_as expand_as is_same_size sym_size dim size stride resize_ "
    "set_ result_type _has_compatible_shallow_copy_type record_stream is_pinned device prim_layout layout".split()
)
"""Operators that launch nothing."""
READS = frozenset("_local_scalar_dense nonzero item masked_select _unique2 unique_dim equal is_nonzero".split())
"""Operators whose result the host reads, or whose shape depends on values."""
PRODUCTS = {"mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2), "baddbmm": (1, 2)}
"""Matrix products, and the places of their two factors."""


def count_bytes(tensors: list[Tensor]) -> int:
    """Bytes of the tensors that are on the GPU."""
    return sum(t.numel() * t.element_size() for t in tensors if t.device.type == "cuda")


def count_flops(left: Tensor, right: Tensor) -> int:
    """Floating point operations of a matrix product."""
    return 2 * left.numel() * right.shape[-1]


class Recorder(TorchDispatchMode):
    """Records what reaches the GPU, by phase of the step. Enter it inside of a FakeTensorMode."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = "set-up"
        self.is_paused = False
        self.reset()

    def reset(self) -> None:
        """Forget everything but the phase."""
        fake_triton.launches.clear()
        self.ops: dict[str, Counter[str]] = defaultdict(Counter)
        self.bytes: Counter[str] = Counter()
        self.flops: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.sequence: list[str] = []
        """All operations in order, with the shapes of what they make."""
        self.fused, self.graphs, self.kernel_bytes = 0, 0, 0
        """Triton kernels that inductor made, graphs of chains, and bytes that its kernels read and write."""

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Count what follows as a part of `phase`."""
        before, self.phase = self.phase, phase
        yield
        self.phase = before

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing."""
        before, self.is_paused = self.is_paused, True
        yield
        self.is_paused = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self.is_paused:
            self._record(func._schema.name.split("::")[1], args, kwargs or {}, out)
        return out

    def _record(self, name: str, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        if not any(t.device.type == "cuda" for t in given + made):
            return
        self._note_wait(name, given, made, kwargs)
        if name in VIEWS:
            return
        self.ops[self.phase][name] += 1
        self.sequence.append(f"{name} {[(tuple(t.shape), str(t.device)) for t in made]}")
        self.bytes[self.phase] += _count_traffic(name, given, made)
        if name in PRODUCTS:
            left, right = PRODUCTS[name]
            self.flops[self.phase] += count_flops(args[left], args[right])

    def _note_wait(self, name: str, given: list[Tensor], made: list[Tensor], kwargs: dict[str, Any]) -> None:
        if name in READS and any(t.device.type == "cuda" for t in given):
            self.add_wait(f"{name} device->host")
        if name not in ("_to_copy", "copy_") or not given or not made:
            return
        source, target = given[-1], made[0]
        way = f"{source.device.type}->{target.device.type}"
        is_blocking = not (kwargs.get("non_blocking") or (name == "copy_" and kwargs.get("non_blocking", False)))
        if source.device.type != target.device.type and is_blocking:
            self.add_wait(f"{name} {way}")

    def add_wait(self, what: str) -> None:
        """Note that the host waits for the GPU."""
        frames = [f for f in traceback.extract_stack() if "/worldmodel/" in f.filename]
        where = f"{frames[-1].filename.split('/worldmodel/')[-1]}:{frames[-1].lineno}" if frames else "torch"
        self.waits[f"{self.phase} {where} {what}"] += 1


def _count_traffic(name: str, given: list[Tensor], made: list[Tensor]) -> int:
    if name in ("index_select", "embedding", "index"):  # reads only what it gives
        return 2 * count_bytes(made) + count_bytes(given[1:])
    if name in ("fill_", "zero_"):
        return count_bytes(given[:1])
    return count_bytes(given) + count_bytes(given[:1] if name.endswith("_") else made)
