"""Counts what a step would do on a GPU: launches, memory traffic, matrix products, waits."""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from tests.gpu import fake_cuda, fake_triton

VIEWS = """
_has_compatible_shallow_copy_type _reshape_alias _unsafe_view alias as_strided chunk detach device diagonal dim empty
empty_like empty_strided expand expand_as is_pinned is_same_size layout lift_fresh mT movedim narrow new_empty
new_empty_strided numpy_T permute prim_layout record_stream reshape resize_ result_type select set_ size slice split
split_with_sizes squeeze stride sym_size t transpose unbind unflatten unfold unsqueeze view view_as
""".split()  # noqa: SIM905
"""Operators that launch nothing."""
READS = "_local_scalar_dense _unique2 equal is_nonzero item masked_select nonzero unique_dim".split()  # noqa: SIM905
"""Operators whose result the host reads, or whose shape depends on values."""
DEVICE_OF = torch.ops.prim.device.default
INDEXING = ("index", "index_put_", "index_put", "_index_put_impl_")
PRODUCTS = {"mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2), "baddbmm": (1, 2)}
"""Matrix products, and the places of their two factors."""


FAKE = FakeTensorMode(allow_non_fake_inputs=True)
"""The mode of all fake tensors in a process: the project keeps some of them from one training to the next."""


def count_bytes(tensors: list[Tensor]) -> int:
    """Bytes of the tensors that are on the GPU."""
    return sum(t.numel() * t.element_size() for t in tensors if _is_on_gpu(t))


def count_flops(left: Tensor, right: Tensor) -> int:
    """Floating point operations of a matrix product."""
    return 2 * left.numel() * right.shape[-1]


class Recorder(TorchDispatchMode):
    """Records what reaches the GPU, by phase of the step. Enter it inside of `FAKE`.

    Tensors of the host are real under it, with their values; those of a GPU are fake.
    """

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
        self.chains: dict[str, list[Any]] = {}
        """Name of a chain's graph to the costs (`chains.Cost`) of its runs."""

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
        try:
            yield
        finally:
            self.is_paused = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.is_paused:
            return func(*args, **kwargs)
        if func.namespace == "aten" and torch.is_inference_mode_enabled() and func._can_decompose():
            with self:
                return func.decompose(*args, **kwargs)
        if func is DEVICE_OF:
            return args[0].fake_device if isinstance(args[0], FakeTensor) else args[0].device
        if _is_of_host(args, kwargs):
            with _disable_current_modes():
                return func(*args, **kwargs)
        out = func(*args, **kwargs)
        self._record(func, args, kwargs, out)
        return out

    def _record(self, func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        name = func._schema.name.split("::")[1]
        given, made = _find_tensors((args, *kwargs.values())), _find_tensors((out,))
        if not any(_is_on_gpu(t) for t in given + made):
            return
        is_late = bool(kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
        self._note_wait(name, given, args[:1] if name == "copy_" else made, is_late)
        if name in VIEWS:
            return
        self.ops[self.phase][name] += 1
        self.sequence.append(f"{name} {[(tuple(t.shape), _is_on_gpu(t)) for t in made]}")
        self.bytes[self.phase] += _count_traffic(func, args, given, made)
        if name in PRODUCTS:
            left, right = PRODUCTS[name]
            self.flops[self.phase] += count_flops(args[left], args[right])

    def _note_wait(self, name: str, given: list[Tensor], made: list[Tensor], is_late: bool) -> None:
        is_on_host = [not _is_on_gpu(t) and t.dim() > 0 for t in given]
        if name in READS and not all(is_on_host):
            self.add_wait(f"{name} device->host")
        if name in INDEXING and any(is_on_host):
            self.add_wait(f"{name} by numbers of the host")
        if name not in ("_to_copy", "copy_") or _is_on_gpu(given[-1]) == _is_on_gpu(made[0]):
            return
        way, on_host = (
            (f"{name} device->host", made[0]) if _is_on_gpu(given[-1]) else (f"{name} host->device", given[-1])
        )
        if not is_late:
            self.add_wait(way)
        elif not _is_pinned(on_host):
            self.add_wait(f"{way} of pageable memory")

    def add_wait(self, what: str) -> None:
        """Note that the host waits for the GPU."""
        if fake_cuda.Graph.is_capturing:
            raise RuntimeError(f"operation not permitted when stream is capturing: {what}")
        frames = [f for f in traceback.extract_stack() if "/worldmodel/" in f.filename]
        where = f"{frames[-1].filename.split('/worldmodel/')[-1]}:{frames[-1].lineno}" if frames else "torch"
        self.waits[f"{self.phase} {where} {what}"] += 1


def _is_of_host(args: Any, kwargs: dict[str, Any]) -> bool:
    """True if an operator sees no tensor of a GPU and makes none: it runs for real."""
    device = kwargs.get("device")
    if device is not None and device.type != "cpu":
        return False
    return not any(_is_on_gpu(tensor) for tensor in _find_tensors((args, *kwargs.values())))


def _find_tensors(values: Any) -> list[Tensor]:
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _find_tensors(value)
    return found


def _is_on_gpu(tensor: Tensor) -> bool:
    return isinstance(tensor, FakeTensor) and tensor.fake_device.type == "cuda"


def _is_pinned(tensor: Tensor) -> bool:
    with _disable_current_modes():
        return not isinstance(tensor, FakeTensor) and tensor.is_pinned()


def _count_traffic(func: Any, args: Any, given: list[Tensor], made: list[Tensor]) -> int:
    name = func._schema.name.split("::")[1]
    if name in ("index_select", "embedding", "index"):  # reads only what it gives
        return 2 * count_bytes(made) + count_bytes(given[1:])
    if name in ("fill_", "zero_"):
        return count_bytes(given[:1])
    marks = zip(func._schema.arguments, args, strict=False)
    written = [arg for mark, arg in marks if mark.alias_info is not None and mark.alias_info.is_write]
    return count_bytes(given) + count_bytes(_find_tensors(written) if written else made)
