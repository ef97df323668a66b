"""Predictions that need no training: what every table of results is to be read against.

*Persistence*: nothing moves, everything stays as in the last context frame. *Kinematic*: as persistence, but each
player goes on at its own speed and that of its knockback; positions are frozen while a hit's freeze frames last.
`MostFrequentNextAction` knows, for each action, to which other it most often changes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from worldmodel.encoding import FeatureLayout
from worldmodel.features.batch import Inputs, Predictions, Targets
from worldmodel.schema import PLAYERS, Field, Kind, Target, field_named
from worldmodel.training.loss import ACTION_TERM, mask_term

CERTAIN = 20.0
"""Logit of what is predicted, against 0 for the rest: a probability of 1 to eight digits."""


def persistence(inputs: Inputs, layout: FeatureLayout) -> Predictions:
    """Nothing moves: deltas of 0; values, bits and classes of each position's context frame."""
    frames = _LastFrames(inputs, layout)
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
    """Persistence, but each player moves by its speeds in the context frame.

    vx = (speed_ground_x on the ground, else speed_air_x) + speed_attack_x, vy = (0 on the ground, else speed_y) +
    speed_attack_y, in Melee units per frame; both 0 while more than one frame of hitlag remains (the game freezes both
    players then). Lookahead predicts the delta of one later frame, with the same velocity.
    """
    frames, held = _LastFrames(inputs, layout), persistence(inputs, layout)
    on_ground = frames.number("on_ground") > 0.5
    frozen = frames.number("hitlag") > 1
    own_x = torch.where(on_ground, frames.number("speed_ground_x"), frames.number("speed_air_x"))
    own_y = torch.where(on_ground, 0, frames.number("speed_y"))
    velocity = {"x": own_x + frames.number("speed_attack_x"), "y": own_y + frames.number("speed_attack_y")}
    numbers = dict(held.numbers)
    for name, speed in velocity.items():
        field = field_named(name)
        place = layout.number_targets[field.loss].index(field)
        moved = numbers[field.loss].clone()
        moved[..., place] = torch.where(frozen, 0, speed * field.scale)
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
        action = self.predict_action(_LastFrames(inputs, layout).category(ACTION_TERM))
        logits = CERTAIN * F.one_hot(action, field_named(ACTION_TERM).vocabulary).to(inputs.floats.dtype)
        return Predictions(held.numbers, {**held.logits, ACTION_TERM: logits})


class _LastFrames:
    """The context frame of each position, field by field, in the game's units."""

    def __init__(self, inputs: Inputs, layout: FeatureLayout) -> None:
        self.layout = layout
        positions = inputs.controls.size(1)
        floats, classes = inputs.floats[:, -positions:], inputs.classes[:, -positions:, :-1]
        self.floats = floats.reshape(*floats.shape[:-1], PLAYERS, -1)
        self.classes = classes.reshape(*classes.shape[:-1], PLAYERS, -1)

    def number(self, name: str) -> Float[Tensor, "batch position player"]:
        """A continuous field or flag of one bit, unscaled."""
        field = field_named(name)
        return self.numbers(field)[..., 0] / field.scale

    def numbers(self, field: Field) -> Float[Tensor, "batch position player bit"]:
        """The numbers of a continuous field or flag as the model sees them."""
        if field.kind is Kind.FLAG:
            before = self.layout.flags[: self.layout.flags.index(field)]
            start = self.layout.continuous_width + sum(f.bits for f in before)
        else:
            start = self.layout.continuous.index(field)
        return self.floats[..., start : start + field.bits]

    def category(self, name: str) -> Int[Tensor, "batch position player"]:
        """The class index of a category."""
        return self.classes[..., [f.name for f in self.layout.categories].index(name)]


def _hold_number(frames: _LastFrames, field: Field) -> Tensor:
    """What a number's prediction is when the field stays as it is."""
    now = frames.numbers(field)
    if field.target is Target.DELTA:
        return torch.zeros_like(now)
    return now if field.target is Target.VALUE else CERTAIN * (2 * now - 1)
