"""Predictions that need no training: what every table of results is to be read against.

*Persistence*: nothing moves, everything stays as in the last context frame. *Kinematic*: as persistence, but each
player goes on at its own speed and that of its knockback; positions are frozen while a hit's freeze frames last.
`MostFrequentNextAction` knows, for each action, to which other it most often changes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from worldmodel.encoding import FeatureLayout
from worldmodel.features.batch import Inputs, Predictions, Targets
from worldmodel.features.context import ContextFrames, compute_drift
from worldmodel.schema import Field, Target, field_named
from worldmodel.training.loss import ACTION_TERM, mask_term

CERTAIN = 20.0
"""Logit of what is predicted, against 0 for the rest: a probability of 1 to eight digits."""


def persistence(inputs: Inputs, layout: FeatureLayout) -> Predictions:
    """Nothing moves: deltas of 0; values, bits and classes of each position's context frame."""
    frames = ContextFrames(inputs, layout)
    numbers = {
        term: torch.cat([_hold_number(frames, field) for field in fields], -1)
        for term, fields in layout.number_targets.items()
    }
    logits = {
        term: CERTAIN * F.one_hot(frames.category(field.name), field.vocabulary).to(inputs.floats.dtype)
        for term, field in layout.class_targets.items()
    }
    return Predictions(numbers, logits)


def kinematic(inputs: Inputs, layout: FeatureLayout) -> Predictions:
    """Persistence, but each player moves by its speeds in the context frame, see `compute_drift`.

    Lookahead predicts the delta of one later frame, with the same velocity.
    """
    frames, held = ContextFrames(inputs, layout), persistence(inputs, layout)
    numbers = dict(held.numbers)
    for name, drift in compute_drift(frames).items():
        field = field_named(name)
        place = layout.number_targets[field.loss].index(field)
        moved = numbers[field.loss].clone()
        moved[..., place] = drift * field.scale
        numbers[field.loss] = moved
    return Predictions(numbers, held.logits)


class MostFrequentNextAction:
    """To which action each action most often changes, counted over training targets.

    It always predicts a change, so only accuracy on action changes says something about it.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        size = field_named(ACTION_TERM).vocabulary
        self.counts = torch.zeros(size * size, dtype=torch.int64, device=device)

    def update(self, targets: Targets) -> None:
        """Counts the changes of a training batch, both players'."""
        before, after = targets.context_action, targets.classes[ACTION_TERM]
        changed = (before != after) & (mask_term(targets, ACTION_TERM).squeeze(-1) > 0)
        pair = before * field_named(ACTION_TERM).vocabulary + after
        self.counts.index_add_(0, pair.flatten(), changed.flatten().to(torch.int64))

    def predict_action(
        self, context_action: Int[Tensor, "batch position player"]
    ) -> Int[Tensor, "batch position player"]:
        """The most frequent successor; the action itself where no change from it was seen."""
        size = field_named(ACTION_TERM).vocabulary
        counts = self.counts.view(size, size)
        kept = torch.arange(size, device=counts.device)
        following = torch.where(counts.sum(1) > 0, counts.argmax(1), kept)
        return following[context_action]

    def predict(self, inputs: Inputs, layout: FeatureLayout) -> Predictions:
        """`kinematic`, with each action's most frequent successor in place of the action."""
        held = kinematic(inputs, layout)
        action = self.predict_action(ContextFrames(inputs, layout).category(ACTION_TERM))
        logits = CERTAIN * F.one_hot(action, field_named(ACTION_TERM).vocabulary).to(inputs.floats.dtype)
        return Predictions(held.numbers, {**held.logits, ACTION_TERM: logits})


def _hold_number(frames: ContextFrames, field: Field) -> Tensor:
    """What a number's prediction is when the field stays as it is."""
    now = frames.numbers(field)
    if field.target is Target.DELTA:
        return torch.zeros_like(now)
    return now if field.target is Target.VALUE else CERTAIN * (2 * now - 1)
