"""The loss against the users' values, and its masks against leaving things out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.golden import MODELS, Golden, random_batch
from worldmodel.encoding import EncodingConfig
from worldmodel.experiment.config import LossWeights
from worldmodel.features.batch import Predictions, Targets
from worldmodel.training.loss import compute_loss, count_terms

LAYOUT = EncodingConfig(hitstun=True).layout


@pytest.mark.parametrize(("arch", "encoding"), MODELS)
def test_terms_equal_the_users(shared_folder: Path, arch: str, encoding: str) -> None:
    golden = Golden(shared_folder / "golden", arch, encoding)
    weights = LossWeights(**golden.index["loss_weights"])
    total, terms = compute_loss(golden.predictions("metrics"), golden.targets(), weights)
    for term, value in terms.items():
        assert float(value) == pytest.approx(golden.metrics[f"{term}_loss"], rel=1e-5), term
    assert float(total) == pytest.approx(golden.metrics["total_loss"], rel=1e-5)


def _take(predictions: Predictions, targets: Targets, rows: slice) -> tuple[Predictions, Targets]:
    return (
        Predictions(
            {k: v[rows] for k, v in predictions.numbers.items()}, {k: v[rows] for k, v in predictions.logits.items()}
        ),
        Targets(
            numbers={k: v[rows] for k, v in targets.numbers.items()},
            classes={k: v[rows] for k, v in targets.classes.items()},
            context_action=targets.context_action[rows],
            previous_action=targets.previous_action[rows],
            valid=targets.valid[rows],
            present={k: v[rows] for k, v in targets.present.items()},
        ),
    )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), kept=st.integers(1, 5))
def test_invalid_positions_change_nothing(seed: int, kept: int) -> None:
    _, predictions, targets = random_batch(LAYOUT, batch=6, positions=3, seed=seed)
    valid = torch.zeros_like(targets.valid)
    valid[:kept] = True
    masked, _ = compute_loss(predictions, replace(targets, valid=valid), LossWeights())
    alone, _ = compute_loss(*_take(predictions, targets, slice(kept)), LossWeights())
    torch.testing.assert_close(masked, alone)


def test_a_field_that_a_game_lacks_gets_no_gradient_and_no_count() -> None:
    _, predictions, targets = random_batch(LAYOUT, batch=4, positions=2)
    present = {**targets.present, "velocity": targets.present["velocity"].clone()}
    present["velocity"][1, 0, 2] = 0
    leaf = predictions.numbers["velocity"].clone().requires_grad_()
    masked = Predictions({**predictions.numbers, "velocity": leaf}, predictions.logits)
    targets = replace(targets, present=present)
    total, terms = compute_loss(masked, targets, LossWeights())
    total.backward()
    assert leaf.grad is not None
    without = torch.ones_like(leaf, dtype=torch.bool)
    without[1, :, 0, 2] = False
    assert bool((leaf.grad[~without] == 0).all()) and bool((leaf.grad[without] != 0).all())
    error = (leaf - targets.numbers["velocity"]).square()
    torch.testing.assert_close(terms["velocity"], error[without].mean())


def test_workers_with_global_counts_average_to_the_whole_batch() -> None:
    _, predictions, targets = random_batch(LAYOUT, batch=6, positions=3)
    valid = torch.ones_like(targets.valid)
    valid[0] = False
    valid[4, 1:] = False
    targets = replace(targets, valid=valid)
    whole, _ = compute_loss(predictions, targets, LossWeights())
    shares = [_take(predictions, targets, slice(start, start + 2)) for start in (0, 2, 4)]
    counts = {term: count / len(shares) for term, count in count_terms(targets).items()}
    parts = [compute_loss(*share, LossWeights(), counts)[0] for share in shares]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_weighted_action_changes_count_more_in_the_same_mean() -> None:
    _, predictions, targets = random_batch(LAYOUT, batch=5, positions=4)
    _, plain = compute_loss(predictions, targets, LossWeights())
    _, weighted = compute_loss(predictions, targets, LossWeights(action_change_weight=3.0))
    log_probability = predictions.logits["action"].log_softmax(-1)
    error = -log_probability.gather(-1, targets.classes["action"].unsqueeze(-1)).squeeze(-1)
    changed = targets.classes["action"] != targets.context_action
    assert bool(changed.any()) and not bool(changed.all())
    torch.testing.assert_close(weighted["action"], (error * (1 + 2 * changed)).mean())
    torch.testing.assert_close(plain["action"], error.mean())
    assert all(torch.equal(plain[t], weighted[t]) for t in plain if t != "action")


def test_nothing_to_count_is_a_loss_of_zero_with_gradients_of_zero() -> None:
    _, predictions, targets = random_batch(LAYOUT, batch=2, positions=2)
    leaf = predictions.logits["action"].clone().requires_grad_()
    predictions = Predictions(predictions.numbers, {**predictions.logits, "action": leaf})
    total, _ = compute_loss(predictions, replace(targets, valid=torch.zeros_like(targets.valid)), LossWeights())
    total.backward()
    assert total.item() == 0 and leaf.grad is not None and not bool(leaf.grad.any())
