"""The loss: one number per term of the schema, and their weighted sum. Nothing here waits for the device.

The users' definitions: mean squared error of the scaled deltas (continuous, velocity) and values (dynamics), binary
cross-entropy of the flags, cross-entropy of each category; means over both players. Positions that are not `valid` and
fields that a game's file lacks (`present` 0) count neither above nor below the fraction line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from worldmodel.experiment.config import LossWeights
from worldmodel.features.batch import Predictions, Targets
from worldmodel.schema import PLAYER_FIELDS, Target

LOGIT_TERM = "binary"
"""The term of numbers whose predictions are logits of bits."""
ACTION_TERM = "action"
DELTA_TERMS = frozenset(field.loss for field in PLAYER_FIELDS if field.target is Target.DELTA)
"""The terms of scaled differences between two frames."""
DELTAS = {term: [f for f in PLAYER_FIELDS if f.loss == term] for term in DELTA_TERMS}
"""Their fields, in head order."""


def compute_loss(
    predictions: Predictions,
    targets: Targets,
    weights: LossWeights,
    denominators: Mapping[str, Tensor | float] | Tensor | None = None,
    smooth_l1_beta: float | None = None,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """The loss to minimise, and its terms before weighting.

    Each term is a sum over what counts, divided by `denominators[term]` (default: `count_terms(targets)`, so a mean).
    Workers that average their gradients divide by the whole batch's count over the number of workers: the average is
    then the gradient of the whole batch's mean, however the padding falls. `smooth_l1_beta`: where the error of scaled
    deltas turns from squared to absolute (smooth L1, Girshick 2015, https://arxiv.org/abs/1504.08083); None: squared
    throughout, as published. A respawn moves a player by 100 units in a frame and would own a squared error.
    """
    counts = count_terms(targets) if denominators is None else denominators
    sums = sum_terms(predictions, targets, weights, smooth_l1_beta)
    divisors = counts if isinstance(counts, Tensor) else [counts[term] for term in sums]
    means = _divide(torch.stack(list(sums.values())), divisors)
    factors = torch.tensor([getattr(weights, term) for term in sums], dtype=means.dtype, device=means.device)
    return (means * factors).sum(), dict(zip(sums, means.unbind(), strict=True))


def count_terms(targets: Targets) -> dict[str, Float[Tensor, ""]]:
    """How many numbers, or classes, of this batch each term averages over."""
    positions = targets.valid.sum(1).to(torch.float32)[:, None, None]
    return {term: (positions * targets.present[term]).sum() for term in (*targets.numbers, *targets.classes)}


def sum_terms(
    predictions: Predictions, targets: Targets, weights: LossWeights, smooth_l1_beta: float | None = None
) -> dict[str, Float[Tensor, ""]]:
    """Each term's error, summed over what counts; action changes count `action_change_weight` times."""
    sums = {}
    for term, predicted in predictions.numbers.items():
        betas = _find_betas(term, smooth_l1_beta) if smooth_l1_beta and term in DELTA_TERMS else None
        sums[term] = _sum_numbers(term, predicted, targets.numbers[term], mask_term(targets, term), betas)
    for term, logits in predictions.logits.items():
        factor = mask_term(targets, term).squeeze(-1)
        if term == ACTION_TERM and weights.action_change_weight != 1:
            changed = targets.classes[term] != targets.context_action
            factor = torch.where(changed, weights.action_change_weight * factor, factor)
        sums[term] = (cross_entropy(logits, targets.classes[term]) * factor).sum()
    return sums


def mask_term(targets: Targets, term: str) -> Float[Tensor, "batch position player field"]:
    """1.0 where a number or class of `term` counts, else 0.0; classes have field width 1."""
    return targets.valid[:, :, None, None] * targets.present[term][:, None]


def cross_entropy(
    logits: Float[Tensor, "batch position player vocabulary"], classes: Tensor
) -> Float[Tensor, "batch position player"]:
    """Minus the log probability of the true class, in float32 or better."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits.flatten(0, 2), classes.flatten(), reduction="none").view_as(classes)


def _find_betas(term: str, beta: float) -> list[float]:
    """Where each delta of a term turns from squared to absolute: those that change by leaps, beyond a leap."""
    return [max(beta, field.leap * field.scale) for field in DELTAS[term]]


def _sum_numbers(term: str, predicted: Tensor, true: Tensor, mask: Tensor, betas: Sequence[float] | None) -> Tensor:
    predicted = predicted.to(true.dtype)
    if term == LOGIT_TERM:
        return F.binary_cross_entropy_with_logits(predicted, true, weight=mask, reduction="sum")
    if betas is not None:
        return (smooth_l1(predicted, true, torch.tensor(betas, device=predicted.device)) * mask).sum()
    return ((predicted - true).square() * mask).sum()


def smooth_l1(predicted: Tensor, true: Tensor, betas: Tensor) -> Tensor:
    """Smooth L1 errors, where each of the last axis turns from squared to absolute at a place of its own."""
    error = (predicted - true).abs()
    return torch.where(error < betas, 0.5 * error * error / betas, error - 0.5 * betas)


def _divide(totals: Tensor, counts: Sequence[Tensor | float] | Tensor) -> Tensor:
    """totals / counts, and 0 where nothing counts."""
    if isinstance(counts, Tensor):
        divisors = counts.to(totals)
    elif all(isinstance(count, Tensor) for count in counts):
        divisors = torch.stack([torch.as_tensor(count) for count in counts]).to(totals)
    else:
        divisors = torch.tensor([float(count) for count in counts], dtype=totals.dtype, device=totals.device)
    return totals / torch.where(divisors > 0, divisors, 1)
