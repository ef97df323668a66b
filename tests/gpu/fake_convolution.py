"""causal_conv1d's function with the checks that it makes of its input, and without its kernel.

The checks are those of `causal_conv1d_fwd` and `causal_conv1d_bwd` (Dao-AILab/causal-conv1d, csrc/causal_conv1d.cpp).
Its kernel for channels that come last reads 16 bytes at a time, so data must begin at a multiple of that.
"""

from __future__ import annotations

import sys
import types
from importlib.machinery import ModuleSpec
from typing import Any

import torch
from torch import Tensor

STEP, ALIGNMENT = 8, 16


def install() -> None:
    """Let `import causal_conv1d` find this."""
    functions = {"causal_conv1d_fwd_function": forward, "causal_conv1d_bwd_function": backward}
    for name, held in (
        ("causal_conv1d", {"causal_conv1d_fn": causal_conv1d_fn}),
        ("causal_conv1d.cpp_functions", {**functions, "causal_conv1d_update_function": None}),
    ):
        module = sys.modules[name] = types.ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update(held)


def causal_conv1d_fn(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None) -> Tensor:
    """See causal_conv1d; x: (batch, channel, time)."""
    assert activation in (None, "silu", "swish")
    return _Convolution.apply(x, weight, bias)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, gradient: Tensor | None = None) -> None:
    channels = x.shape[1]
    kinds = (torch.float32, torch.float16, torch.bfloat16)
    assert x.dtype in kinds and weight.dtype in kinds, "expected float32, float16 or bfloat16"
    assert x.is_cuda and weight.is_cuda, "expected tensors on a GPU"
    assert weight.shape[0] == channels, "weight must have shape (dim, width)"
    assert 2 <= weight.shape[1] <= 4, "causal_conv1d only supports width between 2 and 4"
    assert x.stride(2) == 1 or x.stride(1) == 1, "expected time or channels to be contiguous"
    if bias is not None:
        assert bias.dtype == weight.dtype and bias.is_cuda and bias.stride(-1) == 1 and bias.shape == (channels,)
    for name, tensor in (("x", x), ("dout", gradient)):
        if tensor is not None and x.stride(1) == 1 and x.stride(2) > 1:
            _check_channels_last(name, tensor)


def _check_channels_last(name: str, tensor: Tensor) -> None:
    assert tensor.shape[1] % STEP == 0, "causal_conv1d only supports channel dimension divisible by 8 for now"
    assert tensor.stride(2) % STEP == 0 and tensor.stride(0) % STEP == 0, (
        f"causal_conv1d with channel last layout requires strides ({name}.stride(0) and {name}.stride(2)) to be "
        f"multiples of 8: found {tensor.stride(0)} and {tensor.stride(2)}"
    )
    offset = tensor.storage_offset() * tensor.element_size()
    assert offset % ALIGNMENT == 0, f"{name} begins {offset} bytes into its memory, no multiple of {ALIGNMENT}"


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    """`causal_conv1d.cpp_functions.causal_conv1d_fwd_function`."""
    _check(x, weight, bias)
    return torch.ops.fakeconv.forward(x, weight, bias)


def backward(
    x: Tensor, weight: Tensor, bias: Tensor | None, gradient: Tensor, seq_idx: None = None, initial_states: None = None,
    final_states: None = None, of_x: Tensor | None = None, *rest: Any,
) -> tuple[Tensor, Tensor, Tensor | None, None]:  # fmt: skip
    """`causal_conv1d.cpp_functions.causal_conv1d_bwd_function`."""
    if x.stride(1) == 1 and x.stride(2) > 1 and gradient.stride(1) != 1:
        gradient = gradient.mT.contiguous().mT
    _check(x, weight, bias, gradient)
    of_weight, of_bias = (None if t is None else torch.zeros_like(t, dtype=torch.float32) for t in (weight, bias))
    found = torch.ops.fakeconv.backward(x, weight, bias, gradient)
    assert of_weight is not None
    kind = weight.dtype
    return found if of_x is None else of_x, of_weight.to(kind), None if of_bias is None else of_bias.to(kind), None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if x.stride(2) != 1 and x.stride(1) != 1:
            x = x.contiguous()
        ctx.save_for_backward(x, weight, bias)
        return forward(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if gradient.stride(2) != 1 and gradient.stride(1) != 1:
            gradient = gradient.contiguous()
        x, weight, bias = ctx.saved_tensors
        return backward(x, weight, bias, gradient)[:3]


_library = torch.library.Library("fakeconv", "DEF")
for _name, _more in (("forward", ""), ("backward", ", Tensor gradient")):
    _library.define(f"{_name}(Tensor x, Tensor weight, Tensor? bias{_more}) -> Tensor")
    torch.library.register_fake(f"fakeconv::{_name}", lambda x, *rest: torch.empty_like(x))
