"""The chunked scan against the recurrence it stands for, written as a loop over frames in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from worldmodel.model.scan import ScanInputs, scan_chunks, step_frame

BATCH, HEADS, WIDTH, STATE = 2, 3, 4, 5


def draw_inputs(length: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> ScanInputs:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=dtype)

    return ScanInputs(
        x=normal(BATCH, length, HEADS, WIDTH),
        dt=normal(BATCH, length, HEADS).exp(),
        a=-normal(HEADS).exp(),
        b=normal(BATCH, length, STATE),
        c=normal(BATCH, length, STATE),
        d=normal(HEADS),
    )


def draw_state(seed: int = 7) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, HEADS, WIDTH, STATE, generator=draw, dtype=torch.float64)


def loop(inputs: ScanInputs, state: Tensor) -> tuple[Tensor, Tensor]:
    outputs = []
    for t in range(inputs.x.size(1)):
        x, dt, b, c = inputs.x[:, t], inputs.dt[:, t], inputs.b[:, t], inputs.c[:, t]
        gain = torch.einsum("bh,bhp,bn->bhpn", dt, x, b)
        state = torch.exp(inputs.a * dt)[..., None, None] * state + gain
        outputs.append(torch.einsum("bhpn,bn->bhp", state, c) + inputs.d[:, None] * x)
    return torch.stack(outputs, 1), state


def cut(inputs: ScanInputs, frames: slice) -> ScanInputs:
    return inputs._replace(**{name: getattr(inputs, name)[:, frames] for name in ("x", "dt", "b", "c")})


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 48), st.integers(0, 1000), st.booleans(), st.booleans())
def test_any_length_and_chunk_equal_the_recurrence(
    length: int, chunk: int, seed: int, has_state: bool, wants_state: bool
) -> None:
    inputs, start = draw_inputs(length, seed), draw_state(seed + 1)
    y, final = scan_chunks(inputs, chunk, start if has_state else None, wants_state=wants_state)
    expected, state = loop(inputs, start if has_state else torch.zeros_like(start))
    torch.testing.assert_close(y, expected)
    assert (final is not None) == wants_state
    if final is not None:
        torch.testing.assert_close(final, state)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 30), st.integers(1, 12), st.data())
def test_a_scan_of_two_parts_equals_the_scan_of_both(length: int, chunk: int, data: st.DataObject) -> None:
    split = data.draw(st.integers(1, length - 1))
    inputs = draw_inputs(length)
    whole, end = scan_chunks(inputs, chunk, wants_state=True)
    first, between = scan_chunks(cut(inputs, slice(split)), chunk, wants_state=True)
    second, last = scan_chunks(cut(inputs, slice(split, None)), chunk, between, wants_state=True)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(last, end)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20), st.integers(1, 8), st.booleans())
def test_gradients_equal_those_of_the_recurrence(length: int, chunk: int, wants_state: bool) -> None:
    inputs, start = draw_inputs(length), draw_state()
    names = ("x", "dt", "a", "b", "c", "d")
    gradients = []
    for scan in (lambda i, s: scan_chunks(i, chunk, s, wants_state=wants_state), loop):
        leaves = {name: getattr(inputs, name).clone().requires_grad_() for name in names}
        state = start.clone().requires_grad_()
        y, final = scan(ScanInputs(**leaves), state)
        loss = (y * torch.arange(y.numel(), dtype=y.dtype).view_as(y).sin()).sum()
        if wants_state:
            loss = loss + final.cos().sum()
        gradients.append(torch.autograd.grad(loss, [*leaves.values(), state]))
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.booleans(), st.data())
def test_keeping_the_last_frames_is_the_end_of_keeping_all_with_its_gradients(
    length: int, chunk: int, has_state: bool, data: st.DataObject
) -> None:
    keep = data.draw(st.integers(1, length))
    inputs, start = draw_inputs(length), draw_state() if has_state else None
    names, gradients = ("x", "dt", "a", "b", "c", "d"), []
    for kept in (keep, None):
        leaves = {name: getattr(inputs, name).clone().requires_grad_() for name in names}
        y, _ = scan_chunks(ScanInputs(**leaves), chunk, start, keep=kept)
        last = y[:, -keep:]
        assert kept is None or y.size(1) == keep
        gradients.append([last, *torch.autograd.grad((last * last).sum(), list(leaves.values()))])
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected)


def test_steps_equal_the_scan() -> None:
    inputs, state = draw_inputs(9), draw_state()
    whole, end = scan_chunks(inputs, 4, state, wants_state=True)
    for t in range(9):
        y, state = step_frame(cut(inputs, slice(t, t + 1)), state)
        torch.testing.assert_close(y, whole[:, t : t + 1])
    torch.testing.assert_close(state, end)


def test_extreme_decays_stay_finite_with_their_gradients() -> None:
    inputs = draw_inputs(32, dtype=torch.float32)
    steep = inputs._replace(dt=(inputs.dt * 100).requires_grad_(), a=inputs.a * 10)
    y, _ = scan_chunks(steep, 32)
    y.sum().backward()
    assert bool(y.isfinite().all())
    assert steep.dt.grad is not None and bool(steep.dt.grad.isfinite().all())


@pytest.mark.parametrize("length", [32, 45, 100])
def test_float32_keeps_four_digits_over_a_chunk(length: int) -> None:
    inputs = draw_inputs(length)
    expected, _ = loop(inputs, torch.zeros(BATCH, HEADS, WIDTH, STATE, dtype=torch.float64))
    single = ScanInputs(**{name: getattr(inputs, name).float() for name in ("x", "dt", "a", "b", "c", "d")})
    y, _ = scan_chunks(single, 32)
    torch.testing.assert_close(y.double(), expected, atol=1e-4, rtol=1e-4)
