"""The learning rate against torch's own schedulers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.experiment.config import TrainingConfig
from worldmodel.training.schedule import Schedule, compute_learning_rate

COSINE = Schedule(kind="cosine", peak=2e-3, total_steps=1000, steps_per_epoch=100, num_epochs=10, warmup_pct=0.04)


def list_torch_rates(peak: float, rounds: int) -> list[float]:
    """What CosineAnnealingLR yields when it is stepped once after each of `rounds` rounds."""
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=peak)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=rounds)
    rates = []
    for _ in range(rounds):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@settings(deadline=None)
@given(epochs=st.integers(1, 20), steps=st.integers(1, 7), peak=st.floats(1e-5, 1.0))
def test_epoch_cosine_is_torchs_annealing_stepped_once_an_epoch(epochs: int, steps: int, peak: float) -> None:
    schedule = Schedule(
        kind="epoch_cosine", peak=peak, total_steps=epochs * steps, steps_per_epoch=steps, num_epochs=epochs
    )
    ours = [compute_learning_rate(schedule, step) for step in range(epochs * steps)]
    theirs = [rate for rate in list_torch_rates(peak, epochs) for _ in range(steps)]
    assert ours == pytest.approx(theirs, rel=1e-6, abs=peak * 1e-9)


def test_cosine_without_warmup_is_torchs_annealing_stepped_every_step() -> None:
    schedule = replace(COSINE, warmup_pct=0.0)
    ours = [compute_learning_rate(schedule, step) for step in range(schedule.total_steps)]
    assert ours == pytest.approx(list_torch_rates(schedule.peak, schedule.total_steps), rel=1e-6, abs=1e-9)


def test_cosine_rises_linearly_to_its_peak_then_falls_to_its_floor() -> None:
    schedule = replace(COSINE, min_ratio=0.1)
    rates = [compute_learning_rate(schedule, step) for step in range(schedule.total_steps + 50)]
    warmup = schedule.warmup_steps
    assert warmup == 40
    assert rates[:warmup] == pytest.approx([schedule.peak * (k + 1) / warmup for k in range(warmup)])
    assert max(rates) == rates[warmup - 1] == schedule.peak
    assert all(a >= b for a, b in zip(rates[warmup:], rates[warmup + 1 :], strict=False))
    assert rates[schedule.total_steps :] == pytest.approx([schedule.peak * 0.1] * 50)


@settings(deadline=None)
@given(total=st.integers(1, 500), pct=st.floats(0, 0.99), kind=st.sampled_from(["cosine", "epoch_cosine", "constant"]))
def test_no_step_of_a_run_has_a_rate_of_zero_or_above_the_peak(total: int, pct: float, kind: str) -> None:
    schedule = Schedule(kind=kind, peak=1.0, total_steps=total, steps_per_epoch=1, num_epochs=total, warmup_pct=pct)
    for step in range(total):
        assert 0 < compute_learning_rate(schedule, step) <= 1


def test_a_run_ends_at_max_steps_and_its_cosine_with_it() -> None:
    schedule = Schedule.of(TrainingConfig(num_epochs=4, max_steps=150, warmup_pct=0.0), steps_per_epoch=100)
    assert schedule.total_steps == 150
    assert compute_learning_rate(schedule, 150) == 0.0
    assert Schedule.of(TrainingConfig(num_epochs=4), steps_per_epoch=100).total_steps == 400
