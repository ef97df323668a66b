"""Metrics over a whole set of targets: sums and counts on the device, read once at the end.

Names and definitions are the users'; where theirs are means of batch means, these are means over all targets, which is
the same for batches of equal size. Metrics of ours: `action_acc`, `action_change_acc_both`,
`action_change_acc_previous`, `action_ce`, `targets`, `action_changes`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.encoding import FeatureLayout
from worldmodel.experiment.config import LossWeights
from worldmodel.features.batch import Predictions, Targets
from worldmodel.schema import PLAYERS, Field, field_named
from worldmodel.training.loss import ACTION_TERM, LOGIT_TERM, count_terms, cross_entropy, mask_term, sum_terms

METRIC_VERSION = 1
"""Grows when a metric's meaning changes: results of different versions never share a table."""
ACTION_CATEGORIES: dict[str, tuple[range, ...]] = {
    "idle": (range(14, 15),),
    "movement": (range(15, 24), range(39, 42), range(244, 245)),
    "aerial": (range(24, 38), range(42, 44)),
    "ground_attack": (range(44, 65),),
    "aerial_attack": (range(65, 75),),
    "damage": (range(38, 39), range(75, 92)),
    "shield_dodge": (range(178, 183), range(233, 237)),
    "grab": (range(212, 233), range(239, 244)),
    "edge": (range(245, 264),),
    "special": (range(342, 398),),
}
"""Action state ids (the game's own) by what a player does in them, as the users group them; all others are "other"."""

MAE_FIELDS = {
    "metric/position_mae": ("x", "y"),
    "metric/velocity_mae": ("speed_air_x", "speed_y", "speed_ground_x", "speed_attack_x", "speed_attack_y"),
    "metric/damage_mae": ("percent",),
}
"""Metric to the fields whose absolute errors, in the game's units, it averages over both players."""


class Metrics:
    """Accumulates over batches without waiting for the device, and over workers as one vector."""

    def __init__(self, layout: FeatureLayout, weights: LossWeights, device: torch.device | str = "cpu") -> None:
        device = torch.device(device)
        self.weights = weights
        self.terms = (*layout.number_targets, *layout.class_targets)
        self.fields: dict[str, tuple[Field, ...]] = {
            term: fields for term, fields in layout.number_targets.items() if term != LOGIT_TERM
        }
        precise = torch.float32 if device.type == "mps" else torch.float64
        sizes = self._sizes()
        self._vector = torch.zeros(sum(sizes.values()), dtype=precise, device=device)
        self._sums: Mapping[str, Tensor] = dict(
            zip(sizes, torch.split(self._vector, list(sizes.values())), strict=True)
        )

    @torch.no_grad()
    def update(self, predictions: Predictions, targets: Targets) -> None:
        """Adds a batch."""
        totals = sum_terms(predictions, targets, self.weights.action_change_weight)
        for (term, count), total in zip(count_terms(targets).items(), totals.unbind(), strict=True):
            self._add(f"loss/{term}", total, count)
        for term in self.fields:
            mask = mask_term(targets, term)
            error = (predictions.numbers[term].to(mask.dtype) - targets.numbers[term]).abs() * mask
            self._add(f"error/{term}", error.sum((0, 1, 2)), mask.sum((0, 1, 2)))
        mask = mask_term(targets, LOGIT_TERM)
        right = (predictions.numbers[LOGIT_TERM] > 0) == (targets.numbers[LOGIT_TERM] > 0.5)
        self._add("binary", (right * mask).sum(), mask.sum())
        self._sums["targets"].add_(targets.valid.sum())
        self._update_action(predictions.logits[ACTION_TERM], targets)

    def to_vector(self) -> Float[Tensor, " sum"]:
        """Everything accumulated, as one tensor; the sum over workers is what they accumulated together."""
        return self._vector.clone()

    def from_vector(self, vector: Float[Tensor, " sum"]) -> None:
        """Replaces what is accumulated, after a sum over workers."""
        self._vector.copy_(vector)

    def compute(self) -> dict[str, float]:
        """The metrics so far: one transfer from the device. One that nothing was counted for is left out."""
        vector = self._vector.cpu()
        sums = dict(zip(self._sizes(), torch.split(vector, list(self._sizes().values())), strict=True))
        ratios = {f"loss/{term}": sums[f"loss/{term}"] for term in self.terms}
        for name, fields in MAE_FIELDS.items():
            ratios[name] = self._gather_errors(sums, fields)
        for player in range(PLAYERS):
            ratios[f"metric/p{player}_action_acc"] = sums[f"action/p{player}"]
        ratios["metric/action_acc"] = sums["action/p0"] + sums["action/p1"]
        ratios["metric/binary_acc"] = sums["binary"]
        ratios["metric/action_ce"] = sums["action/ce"]
        ratios["metric/action_change_acc"] = sums["change/p0"]
        ratios["metric/action_change_acc_both"] = sums["change/p0"] + sums["change/p1"]
        ratios["metric/action_change_acc_previous"] = sums["change/previous"]
        ratios |= _group_actions(sums["action/each"].view(2, -1))
        found = {name: float(total / count) for name, (total, count) in ratios.items() if count > 0}
        found["loss/total"] = sum(getattr(self.weights, t) * found.get(f"loss/{t}", 0.0) for t in self.terms)
        found["metric/targets"] = float(sums["targets"])
        found["metric/action_changes"] = float(ratios["metric/action_change_acc_both"][1])
        found["action/num_active_actions"] = float((sums["action/each"].view(2, -1)[1] > 0).sum())
        return found

    def _sizes(self) -> dict[str, int]:
        """Name to length of every accumulated quantity; sums come before counts."""
        pairs = [f"loss/{term}" for term in self.terms]
        pairs += ["binary", "action/ce", "change/previous"]
        pairs += [f"{kind}/p{player}" for kind in ("action", "change") for player in range(PLAYERS)]
        sizes = dict.fromkeys(pairs, 2) | {f"error/{term}": 2 * len(fields) for term, fields in self.fields.items()}
        return sizes | {"action/each": 2 * field_named("action").vocabulary, "targets": 1}

    def _add(self, name: str, total: Tensor, count: Tensor) -> None:
        self._sums[name].add_(torch.cat([total.reshape(-1), count.reshape(-1)]))

    def _update_action(self, logits: Tensor, targets: Targets) -> None:
        true, mask = targets.classes[ACTION_TERM], mask_term(targets, ACTION_TERM).squeeze(-1)
        right = (logits.argmax(-1) == true) * mask
        self._add("action/ce", (cross_entropy(logits, true) * mask).sum(), mask.sum())
        changed = (true != targets.context_action) * mask
        for player in range(PLAYERS):
            self._add(f"action/p{player}", right[..., player].sum(), mask[..., player].sum())
            self._add(f"change/p{player}", (right * changed)[..., player].sum(), changed[..., player].sum())
        changed = (true != targets.previous_action) * mask
        self._add("change/previous", (right * changed).sum(), changed.sum())
        each = self._sums["action/each"].view(2, -1)
        for row, values in zip(each, (right, mask), strict=True):
            row.index_add_(0, true.flatten(), values.flatten().to(row.dtype))

    def _gather_errors(self, sums: Mapping[str, Tensor], names: tuple[str, ...]) -> Tensor:
        """Sum in the game's units, and count, of the errors of some fields."""
        total = torch.zeros(2, dtype=torch.float64)
        for term, fields in self.fields.items():
            pairs = sums[f"error/{term}"].view(2, -1).T
            for field, (error, count) in zip(fields, pairs, strict=True):
                if field.name in names:
                    total += torch.stack([error / field.scale, count])
        return total


def _group_actions(each: Float[Tensor, "2 action"]) -> dict[str, Tensor]:
    """Right and counted targets by the category of their true action, under the users' names."""
    grouped, other = {}, each.sum(1)
    for name, ranges in ACTION_CATEGORIES.items():
        ids = [action for found in ranges for action in found]
        grouped[f"action/cat_{name}"] = each[:, ids].sum(1)
        other = other - grouped[f"action/cat_{name}"]
    return grouped | {"action/cat_other": other}
