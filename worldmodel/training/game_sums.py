"""Sums and counts of the deciding metrics for each game: what a bootstrap over games resamples."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from worldmodel.encoding import FeatureLayout
from worldmodel.features.batch import Predictions, Targets
from worldmodel.schema import field_named
from worldmodel.training.loss import ACTION_TERM, cross_entropy, mask_term
from worldmodel.training.metrics import MAE_FIELDS

NO_TELEPORTS = "metric/position_mae_no_teleports"
"""Position MAE of the coordinates that move at most `TELEPORT`; measured here alone."""
BY_GAME = ("metric/position_mae", NO_TELEPORTS, "metric/action_acc", "metric/action_change_acc_both",
           "metric/action_ce")  # fmt: skip
"""Metrics that are kept by game."""
TELEPORT = 20.0
"""Melee units between the last context frame and the target, beyond which a coordinate was moved, as in a respawn."""


class GameSums:
    """Accumulates over batches without waiting for the device."""

    def __init__(self, layout: FeatureLayout, games: int, device: torch.device | str = "cpu") -> None:
        """`games`: games in the store."""
        device = torch.device(device)
        precise = torch.float32 if device.type == "mps" else torch.float64
        self._term = field_named("x").loss
        fields = layout.number_targets[self._term]
        self._places = [n for n, field in enumerate(fields) if field.name in MAE_FIELDS["metric/position_mae"]]
        self._scales = torch.tensor([fields[n].scale for n in self._places], device=device)
        self._sums = torch.zeros(games, len(BY_GAME), 2, dtype=precise, device=device)

    @torch.no_grad()
    def update(self, predictions: Predictions, targets: Targets, games: np.ndarray) -> None:
        """Add a batch; `games`: the game of each sample, by its place in the store."""
        moved, found = (side.numbers[self._term][..., self._places].float() for side in (targets, predictions))
        mask = mask_term(targets, self._term)[..., self._places]
        error = (found - moved).abs() / self._scales
        near = mask * (moved.abs() / self._scales <= TELEPORT)
        true, known = targets.classes[ACTION_TERM], mask_term(targets, ACTION_TERM).squeeze(-1)
        logits = predictions.logits[ACTION_TERM]
        right, changed = logits.argmax(-1) == true, known * (true != targets.context_action)
        pairs = (
            (error * mask, mask), (error * near, near), (right * known, known), (right * changed, changed),
            (cross_entropy(logits, true) * known, known),
        )  # fmt: skip
        sums = torch.stack([torch.stack([_sum(total), _sum(count)], -1) for total, count in pairs], 1)
        self._sums.index_add_(0, torch.from_numpy(games).to(sums.device), sums.to(self._sums.dtype))

    def compute(self) -> dict[str, list[list[float]]]:
        """Metric to its sums and its counts, each with one value per game."""
        values = self._sums.cpu().permute(1, 2, 0).tolist()
        return dict(zip(BY_GAME, values, strict=True))

    def average(self) -> dict[str, float]:
        """`NO_TELEPORTS` over all games; empty where nothing counts."""
        total, count = self._sums[:, BY_GAME.index(NO_TELEPORTS)].sum(0).tolist()
        return {NO_TELEPORTS: total / count} if count else {}


def _sum(values: Tensor) -> Tensor:
    """Over all of a sample."""
    return values.flatten(1).sum(1)
