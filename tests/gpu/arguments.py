"""Arguments of a chain as a list of tensors and a plan that puts others in their places."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.stateless import _reparametrize_module
from torch.utils._pytree import SUPPORTED_NODES

Rebuild = Callable[[Sequence[Tensor], contextlib.ExitStack], Any]
"""Makes a value of other tensors; modules hold them until the stack ends."""


def take_apart(value: Any, tensors: list[Tensor], key: list[Any]) -> Rebuild:
    """Adds a value's tensors to `tensors`, and what else decides its trace to `key`."""
    if isinstance(value, Tensor):
        return _take_tensor(value, tensors, key)
    if isinstance(value, nn.Module):
        return _take_module(value, tensors, key)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        rest = take_apart(fields, tensors, key)
        return lambda new, stack: dataclasses.replace(value, **rest(new, stack))
    if isinstance(value, dict):
        key.append(tuple(value))
        parts = {name: take_apart(part, tensors, key) for name, part in value.items()}
        return lambda new, stack: {name: part(new, stack) for name, part in parts.items()}
    if isinstance(value, (list, tuple)):
        key.append((type(value), len(value)))
        each = [take_apart(part, tensors, key) for part in value]
        make = type(value)._make if hasattr(value, "_make") else type(value)
        return lambda new, stack: make([part(new, stack) for part in each])
    if type(value) in SUPPORTED_NODES:  # an object whose class tells torch which tensors it holds
        node = SUPPORTED_NODES[type(value)]
        held, context = node.flatten_fn(value)
        key.append((type(value), str(context)))
        inner = take_apart(list(held), tensors, key)
        return lambda new, stack: node.unflatten_fn(inner(new, stack), context)
    key.append(value)
    return lambda new, stack: value


def _take_tensor(value: Tensor, tensors: list[Tensor], key: list[Any]) -> Rebuild:
    place = len(tensors)
    same = next((n for n, other in enumerate(tensors) if other is value), place)
    tensors.append(value)
    key.append((tuple(value.shape), value.stride(), value.dtype, value.device, value.requires_grad, same))
    return lambda new, stack: new[place]


def _take_module(value: nn.Module, tensors: list[Tensor], key: list[Any]) -> Rebuild:
    """Modules of the same settings share a trace: their tensors are arguments."""
    key += [(type(part), _settings(part)) for part in value.modules()]
    own = take_apart(dict(value.named_parameters()) | dict(value.named_buffers()), tensors, key)

    def rebuild(new: Sequence[Tensor], stack: contextlib.ExitStack) -> nn.Module:
        stack.enter_context(_reparametrize_module(value, own(new, stack)))
        return value

    return rebuild


def _settings(module: nn.Module) -> tuple[Any, ...]:
    plain = (bool, int, float, str, tuple, torch.dtype)
    return tuple((name, value) for name, value in vars(module).items() if isinstance(value, plain))
