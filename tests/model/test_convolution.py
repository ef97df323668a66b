"""The shifted convolution against torch's conv1d, with its gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.model.convolution import convolve


@settings(max_examples=25, deadline=None)
@given(kernel=st.integers(1, 5), length=st.integers(1, 9), seed=st.integers(0, 100))
def test_values_and_gradients_equal_conv1d_behind_zeros(kernel: int, length: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    shapes = {"frames": (2, length, 3), "weight": (3, kernel), "bias": (3,)}
    leaves = [torch.randn(s, generator=draw, dtype=torch.float64, requires_grad=True) for s in shapes.values()]
    frames, weight, bias = leaves
    ours = convolve(frames, weight, bias)
    padded = F.pad(frames.mT, (kernel - 1, 0))
    expected = F.silu(F.conv1d(padded, weight.unsqueeze(1), bias, groups=3)).mT
    torch.testing.assert_close(ours, expected)
    factor = torch.randn(ours.shape, generator=draw, dtype=torch.float64)
    for found, wanted in zip(
        torch.autograd.grad((ours * factor).sum(), leaves),
        torch.autograd.grad((expected * factor).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)
