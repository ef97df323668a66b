"""The loss: one number per term of the schema, and their weighted sum. Nothing here waits for the device.

The users' definitions: mean squared error of the scaled deltas (continuous, velocity) and values (dynamics), binary
cross-entropy of the flags, cross-entropy of each category; means over both players. Positions that are not `valid` and
fields that a game's file lacks (`present` 0) count neither above nor below the fraction line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from worldmodel.experiment.config import LossWeights
from worldmodel.features.batch import Predictions, Targets
from worldmodel.machine.fused import fused
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
    denominators: Mapping[str, Tensor | float] | Float[Tensor, " term"] | None = None,
    smooth_l1_beta: float | None = None,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """The loss to minimise, and its terms before weighting.

    Each term is a sum over what counts, divided by `denominators[term]` (default: `count_terms(targets)`, so a mean); a
    tensor has them in the order of the terms, numbers first.
    Workers that average their gradients divide by the whole batch's count over the number of workers: the average is
    then the gradient of the whole batch's mean, however the padding falls. `smooth_l1_beta`: where the error of scaled
    deltas turns from squared to absolute (smooth L1, Girshick 2015, https://arxiv.org/abs/1504.08083); None: squared
    throughout, as published. A respawn moves a player by 100 units in a frame and would own a squared error.
    """
    device, terms = targets.valid.device, (*predictions.numbers, *predictions.logits)
    if isinstance(denominators, Mapping):
        denominators = torch.tensor([float(denominators[term]) for term in terms], device=device)
    factors = make_row(tuple(getattr(weights, term) for term in terms), device)
    betas = find_betas(tuple(predictions.numbers), smooth_l1_beta, device)
    total, means = _weigh(predictions, targets, weights.action_change_weight, denominators, factors, betas)
    return total, dict(zip(terms, means.unbind(), strict=True))


@fused
def _weigh(
    predictions: Predictions, targets: Targets, change_weight: float, denominators: Tensor | None, factors: Tensor,
    betas: dict[str, Tensor],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    totals = sum_terms(predictions, targets, change_weight, betas)
    if denominators is None:
        denominators = torch.stack(list(count_terms(targets).values()))
    means = totals / torch.where(denominators > 0, denominators, 1).to(totals.dtype)
    return (means * factors.to(means.dtype)).sum(), means


def make_row(values: tuple[float, ...], device: torch.device) -> Float[Tensor, " value"]:
    """Constants on a device."""
    return torch.tensor(values) if device.type == "cpu" else _keep_row(values, device)


@lru_cache(maxsize=64)
def _keep_row(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Constants that were copied to a GPU once: a step must not wait for a copy."""
    return torch.tensor(values, device=device)


def count_terms(targets: Targets) -> dict[str, Float[Tensor, ""]]:
    """How many numbers, or classes, of this batch each term averages over."""
    positions = targets.valid.sum(1).to(torch.float32)[:, None, None]
    return {term: (positions * targets.present[term]).sum() for term in (*targets.numbers, *targets.classes)}


def sum_terms(
    predictions: Predictions, targets: Targets, change_weight: float = 1.0, betas: Mapping[str, Tensor] | None = None
) -> Float[Tensor, " term"]:
    """Each term's error, summed over what counts, numbers first; action changes count `change_weight` times."""
    errors = []
    for term, predicted in predictions.numbers.items():
        error = _measure_numbers(term, predicted, targets.numbers[term], (betas or {}).get(term))
        errors.append((error * mask_term(targets, term)).sum((2, 3)))
    for term, logits in predictions.logits.items():
        factor = mask_term(targets, term).squeeze(-1)
        if term == ACTION_TERM and change_weight != 1:
            changed = targets.classes[term] != targets.context_action
            factor = torch.where(changed, change_weight * factor, factor)
        errors.append((cross_entropy(logits, targets.classes[term]) * factor).sum(2))
    return torch.stack([error.sum() for error in errors])


def mask_term(targets: Targets, term: str) -> Float[Tensor, "batch position player field"]:
    """1.0 where a number or class of `term` counts, else 0.0; classes have field width 1."""
    return targets.valid[:, :, None, None] * targets.present[term][:, None]


def cross_entropy(
    logits: Float[Tensor, "batch position player vocabulary"], classes: Tensor
) -> Float[Tensor, "batch position player"]:
    """Minus the log probability of the true class, in float32 or better."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if torch.compiler.is_compiling():  # one pass over the logits each way, without scattered writes
        is_true = classes.unsqueeze(-1) == torch.arange(logits.size(-1), device=logits.device)
        return logits.logsumexp(-1) - torch.where(is_true, logits, 0).sum(-1)
    return F.cross_entropy(logits.flatten(0, 2), classes.flatten(), reduction="none").view_as(classes)


def find_betas(terms: Sequence[str], beta: float | None, device: torch.device) -> dict[str, Float[Tensor, " field"]]:
    """Where each delta of a term turns from squared to absolute: those that change by leaps, beyond a leap."""
    if beta is None:
        return {}
    found = {term: tuple(max(beta, f.leap * f.scale) for f in DELTAS[term]) for term in terms if term in DELTA_TERMS}
    return {term: make_row(values, device) for term, values in found.items()}


def _measure_numbers(term: str, predicted: Tensor, true: Tensor, betas: Tensor | None) -> Tensor:
    """The error of each number."""
    predicted = predicted.to(true.dtype)
    if term == LOGIT_TERM:
        return F.binary_cross_entropy_with_logits(predicted, true, reduction="none")
    return (predicted - true).square() if betas is None else smooth_l1(predicted, true, betas)


def smooth_l1(predicted: Tensor, true: Tensor, betas: Tensor) -> Tensor:
    """Smooth L1 errors, where each of the last axis turns from squared to absolute at a place of its own."""
    error = (predicted - true).abs()
    return torch.where(error < betas, 0.5 * error * error / betas, error - 0.5 * betas)
