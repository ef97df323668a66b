"""Chains of small operations as one GPU kernel each.

A GPU is idle while Python launches small kernels, and each of them reads and writes memory. `fused` compiles such a
chain with torch.compile for CUDA tensors in training; on CPUs and without gradients it runs as written.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

DEVICE = "cuda"
"""Type of the devices that chains are compiled for."""
OPTIONS: dict[str, Any] = {"combo_kernels": True, "shape_padding": False}
"""Inductor launches kernels that do not depend on each other as one, and does not try whether padded products are
faster: `in_proj` is aligned already."""

_compiled: dict[Callable[..., Any], Callable[..., Any]] = {}
_state: dict[str, Any] = {"enabled": True, "say": lambda text: None}


def fused(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A function that runs compiled on CUDA tensors while gradients are recorded, and as written elsewhere.

    It takes tensors, dictionaries and tuples of tensors, and constants; it has no side effects and no branches that
    depend on values of tensors. One program is compiled for each combination of shapes and constants.
    """

    @functools.wraps(function)
    def run(*args: Arguments.args, **options: Arguments.kwargs) -> Result:
        if not is_fusing(args, options):
            return function(*args, **options)
        is_first = function not in _compiled
        if is_first:
            _compiled[function] = compile_chain(function)
        try:
            found: Result = _compiled[function](*args, **options)
        except Exception as error:
            if not is_first or isinstance(error, torch.OutOfMemoryError):
                raise
            give_up(error)
            return function(*args, **options)
        return found

    return run


def is_fusing(*args: Any) -> bool:
    """True if a chain over these arguments runs compiled."""
    if not _state["enabled"] or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return any(isinstance(leaf, Tensor) and leaf.device.type == DEVICE for leaf in tree_leaves(args))


def compile_chain(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The compiled form of a chain; deterministic, so that a resume is exact, where torch's algorithms are to be."""
    torch._dynamo.config.optimize_ddp = False  # a chain is no model, to be cut where DDP's buckets end
    options = {**OPTIONS, "deterministic": torch.are_deterministic_algorithms_enabled()}
    return torch.compile(function, fullgraph=True, dynamic=False, options=options)


def can_compile() -> bool:
    """False once a compiler was found missing, or has failed."""
    return bool(_state["enabled"])


def has_fused() -> bool:
    """True if chains are compiled, and some were."""
    return _state["enabled"] and bool(_compiled)


def reset_fusing(*, enabled: bool = True) -> None:
    """Drop all compiled programs, as before another experiment in the same process."""
    _state["enabled"] = enabled
    _compiled.clear()
    torch.compiler.reset()


def explain_missing_compiler(device: torch.device) -> str | None:
    """Why chains cannot be compiled for a device; None: they can. Compiles and runs a small one, with its gradient."""
    if device.type != "cuda":
        return None
    try:
        x = torch.ones(8, device=device, requires_grad=True)
        compile_chain(_probe)(x).backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # noqa: BLE001  (whatever a compiler or driver raises: training goes on without it)
        return f"{type(error).__name__}: {_shorten(error)}"
    return None


def tell_failures(say: Callable[[str], None]) -> None:
    """Who hears that chains run one operation at a time, and why."""
    _state["say"] = say


def give_up(error: Exception) -> None:
    """Leave compiling out from now on, and say why."""
    reset_fusing(enabled=False)
    _state["say"](
        f"chains of small operations cannot be compiled and run one by one, which is slower ({type(error).__name__}: "
        f"{_shorten(error)}); TORCHDYNAMO_DISABLE=1 leaves compiling out"
    )


def _shorten(error: Exception) -> str:
    """The first line of an error, which may have none."""
    return next(iter(str(error).strip().splitlines()), "")


def _probe(x: Tensor) -> Tensor:
    return (x.sigmoid() * x).sum()
