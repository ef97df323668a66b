"""The norms' own backward passes against autograd through the formulas they stand for, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from worldmodel.model.norm import EPSILON, RMSNorm, project_gated


def normalise(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + EPSILON).sqrt() * weight


def assert_same_with_gradients(ours: Tensor, expected: Tensor, leaves: list[Tensor], draw: torch.Generator) -> None:
    torch.testing.assert_close(ours, expected)
    weight = torch.randn(ours.shape, generator=draw, dtype=ours.dtype)
    found, wanted = (torch.autograd.grad((y * weight).sum(), leaves) for y in (ours, expected))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def draw_leaves(seed: int, *shapes: tuple[int, ...]) -> tuple[list[Tensor], torch.Generator]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=draw, dtype=torch.float64, requires_grad=True) for s in shapes], draw


@settings(max_examples=20, deadline=None)
@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=3), width=st.integers(1, 9), seed=st.integers(0, 99))
def test_the_norm_and_its_gradients_equal_the_formula(shape: list[int], width: int, seed: int) -> None:
    (x, weight), draw = draw_leaves(seed, (*shape, width), (width,))
    norm = RMSNorm(width).double()
    with torch.no_grad():
        norm.weight.copy_(weight)
    ours = torch.func.functional_call(norm, {"weight": weight}, (x,))
    assert_same_with_gradients(ours, normalise(x, weight), [x, weight], draw)


@settings(max_examples=20, deadline=None)
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), inner=st.integers(1, 8), seed=st.integers(0, 99))
def test_the_gated_projection_and_its_gradients_equal_the_formula(shape: list[int], inner: int, seed: int) -> None:
    (y, gate, norm, matrix), draw = draw_leaves(seed, (*shape, inner), (*shape, inner), (inner,), (3, inner))
    ours = project_gated(y, gate, norm, matrix)
    expected = normalise(y * F.silu(gate), norm) @ matrix.T
    assert_same_with_gradients(ours, expected, [y, gate, norm, matrix], draw)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_the_norm_is_computed_precisely_and_rounded_once(dtype: torch.dtype) -> None:
    norm, x = RMSNorm(64), (torch.randn(7, 64) * 30).to(dtype)
    plain = norm(x)
    assert plain.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        rounded = norm(x)
    assert torch.equal(rounded, plain.to(torch.bfloat16))
