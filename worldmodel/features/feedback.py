"""The next frame as a fact: what a model predicts, what the schema's rules say of the rest, and the given controls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldmodel.encoding import FeatureLayout
from worldmodel.errors import UserError
from worldmodel.features.batch import Predictions
from worldmodel.features.columns import ClassCode
from worldmodel.features.facts import CATEGORIES, CONTROL_PLACES, NUMBER_PLACES, FactEncoder, Facts
from worldmodel.schema import (
    AGE_STARTS,
    DEATHS,
    FIELDS,
    ITEM_SCALE,
    PLAYER_FIELDS,
    REBIRTH,
    Field,
    Kind,
    Rule,
    Storage,
    Target,
    field_named,
)  # fmt: skip

LIMITS = {Storage.UINT16: 65535.0, Storage.UINT8: 255.0}
"""The largest whole number that a type holds."""
LEFT_OVER = 0.49
"""So much may be taken back of damage before what is shown of it would fall."""


@dataclass(kw_only=True)
class Choice:
    """How a class is chosen from its logits. UserError where temperature or seed mean nothing."""

    temperature: float = 0.0
    """0: the most likely one. Above, it is drawn, from logits divided by this."""
    seed: int = 0
    """What is drawn is a function of it, of the batch and of the frames chosen before."""
    _dice: torch.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"found temperature {self.temperature:g}, expected 0 (the most likely) or more")
        if not -(1 << 63) <= self.seed < 1 << 64:
            raise UserError(f"found seed {self.seed}, expected a whole number of 64 bits")
        self.restart()

    def restart(self) -> None:
        """Begin what is drawn anew."""
        self._dice = torch.Generator().manual_seed(self.seed)

    def pick(self, logits: Float[Tensor, "*batch vocabulary"]) -> Int[Tensor, "*batch"]:
        """A class for each row of logits."""
        if self.temperature == 0:
            return logits.argmax(-1)
        even = torch.rand(logits.shape, generator=self._dice).clamp(1e-7, 1 - 1e-7)  # on the CPU: the same everywhere
        gumbel = -(-even.log()).log()
        return (logits.float() / self.temperature + gumbel.to(logits.device)).argmax(-1)


class Feedback:
    """Writes predictions of one experiment's model into the next frame."""

    def __init__(self, layout: FeatureLayout, device: torch.device | str = "cpu", choice: Choice | None = None) -> None:
        """`choice`: how classes are chosen; None: the most likely ones."""
        self.layout, self.choice, self.device = layout, choice or Choice(), torch.device(device)
        self._plan_numbers()
        classes = list(layout.class_targets.values())
        self._class_places = torch.tensor([CATEGORIES.index(f) for f in classes], device=self.device)
        self._code = ClassCode(classes, self.device)
        free = [f for f in PLAYER_FIELDS if f not in self._predicted and f not in classes]
        self._counts_down = self._columns([f for f in free if f.rule is Rule.COUNT_DOWN])
        self._counts_up = [self._columns([f]) for f in free if f.rule is Rule.COUNT_UP]
        self.encoder = FactEncoder(layout, self.device)
        self._age_starts = torch.zeros(field_named("action").vocabulary + 1, device=self.device)
        for age, actions in AGE_STARTS.items():
            self._age_starts[list(actions)] = age

    def advance(
        self, frames: Facts, predictions: Predictions, controls: Float[Tensor, "batch player control"]
    ) -> Facts:
        """The frame after `frames` (of which the last two count), as T = 1.

        Args:
            frames: the frames so far; deltas add to the last one.
            predictions: of the next frame (N = 1), in the layout's scales.
            controls: the next frame's. Predicted numbers pass gradients on, but for flags and those that are rounded:
                passed through a step function they would be wrong, and ten times larger than all others.
        """
        last = frames.cut(slice(-1, None))
        numbers = torch.cat([last.numbers[..., : CONTROL_PLACES.start], controls.unsqueeze(1)], -1)
        if len(self._counts_down):
            counted = (last.numbers.index_select(-1, self._counts_down) - 1).clamp(min=0)
            numbers = numbers.index_copy(-1, self._counts_down, counted)
        classes = self._choose(predictions, last)
        numbers = numbers.index_copy(-1, self._places, self._decode(predictions, last))
        numbers = self._count_lives(numbers, last, classes)
        for place in self._counts_up:
            age = self._count_age(frames, classes[..., CATEGORIES.index(FIELDS["action"])])
            numbers = numbers.index_copy(-1, place, age.unsqueeze(-1))
        return Facts(numbers, classes, last.stages, self._carry_items(last, numbers), last.lacks).clear_lacks()

    def aim(
        self, last: Facts, true: Facts
    ) -> tuple[dict[str, Float[Tensor, "batch 1 player field"]], dict[str, Int[Tensor, "batch 1 player"]]]:
        """What a model ought to say behind `last` (T = 1) so that `true` (T = 1) comes: `Targets.numbers`, `.classes`.

        Where `last` is the model's own frame, its errors are part of the deltas: saying this leads back to the truth.
        """
        now, before = (facts.numbers.index_select(-1, self._places) for facts in (true, last))
        joint = (now - before * self._is_delta) * self._scales
        numbers = dict(zip(self._widths, torch.split(joint, list(self._widths.values()), -1), strict=True))
        classes = self._code.encode(true.classes.index_select(-1, self._class_places))
        return numbers, dict(zip(self.layout.class_targets, classes.unbind(-1), strict=True))

    def _plan_numbers(self) -> None:
        """Where the heads' numbers go, in head order, and what becomes of them."""
        self._predicted = [field for fields in self.layout.number_targets.values() for field in fields]
        bits = [field for field in self._predicted for _ in range(field.bits)]
        self._places = self._columns(self._predicted)
        self._widths = {term: self.layout.number_width(term) for term in self.layout.number_targets}

        def make(values: Sequence[float | bool]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=self.device)

        self._scales = make([f.scale if f.kind is Kind.CONTINUOUS else 1.0 for f in bits])
        self._is_delta = make([f.target is Target.DELTA for f in bits])
        self._is_flag = make([f.target is Target.LOGIT for f in bits]) > 0
        self._is_whole = make([f.is_whole and not f.has_fraction for f in bits]) > 0
        self._has_fraction = make([f.has_fraction for f in bits]) > 0
        self._deaths = torch.tensor(DEATHS, device=self.device)
        self._stocks = self._columns([FIELDS["stocks"]])
        self._damage = self._columns([f for f in self._predicted if f.has_fraction])
        ranges = [_find_range(f) for f in bits]
        self._lowest, self._highest = make([low for low, _ in ranges]), make([high for _, high in ranges])

    def _columns(self, fields: list[Field]) -> Tensor:
        found = [p for f in fields for p in range(*NUMBER_PLACES[f.name].indices(CONTROL_PLACES.stop))]
        return torch.tensor(found, dtype=torch.int64, device=self.device)

    def _decode(self, predictions: Predictions, last: Facts) -> Tensor:
        """The predicted numbers in the game's units, as it could store them."""
        joint = torch.cat([predictions.numbers[term].float() for term in self.layout.number_targets], -1)
        before = last.numbers.index_select(-1, self._places)
        values = before * self._is_delta + joint / self._scales
        kept = values.detach()
        stored = torch.where(self._is_flag, (kept > 0).to(kept.dtype), torch.where(self._is_whole, kept.round(), kept))
        lowest = torch.where(self._has_fraction, before.detach().round() - LEFT_OVER, self._lowest)
        stored = torch.minimum(torch.maximum(stored, lowest), self._highest)
        if not values.requires_grad:
            return stored
        return stored + torch.where(self._is_flag | self._is_whole, 0.0, values - kept)

    def _count_lives(self, numbers: Tensor, last: Facts, classes: Tensor) -> Tensor:
        """Who dies has a stock less, who comes back has taken no damage: see `schema.DEATHS` and `REBIRTH`."""
        place = CATEGORIES.index(FIELDS["action"])
        action, before = classes[..., place], last.classes[..., place]
        damage = numbers.index_select(-1, self._damage)
        comes_back = ((action == REBIRTH) & (before != REBIRTH)).unsqueeze(-1)
        numbers = numbers.index_copy(-1, self._damage, torch.where(comes_back, 0.0, damage))
        dies = (torch.isin(action, self._deaths) & (action != before)).unsqueeze(-1)
        stocks, had = (values.index_select(-1, self._stocks) for values in (numbers, last.numbers))
        left = torch.where(dies, (had - 1).clamp(min=0), torch.minimum(stocks, had))
        return numbers.index_copy(-1, self._stocks, left)

    def _choose(self, predictions: Predictions, last: Facts) -> Tensor:
        chosen = [self.choice.pick(predictions.logits[term].detach()) for term in self.layout.class_targets]
        return last.classes.index_copy(-1, self._class_places, self._code.decode(torch.stack(chosen, -1)))

    def _count_age(self, frames: Facts, action: Int[Tensor, "batch time player"]) -> Tensor:
        """(B, 1, P) `state_age` by its rule, see `Rule.COUNT_UP`."""
        ages, actions, hitlag = (frames.get(name)[:, -2:] for name in ("state_age", "action", "hitlag"))
        last, is_frozen = ages[:, -1:], hitlag[:, -1:] > 1
        speed = torch.ones_like(last)
        if frames.frames > 1:
            grown = last - ages[:, :1]
            is_known = (actions[:, -1:] == actions[:, :1]) & (hitlag[:, :1] <= 1) & (grown >= 0)
            speed = torch.where(is_known, grown, speed)
        begun = self._age_starts[action.clamp(max=len(self._age_starts) - 1)]
        going_on = torch.where(is_frozen, last, last + speed)
        return torch.where(action == actions[:, -1:], going_on, begun)

    def _carry_items(self, last: Facts, numbers: Tensor) -> Tensor | None:
        """The nearest item stays where it is, so it moves against a player who moves."""
        if last.items is None:
            return None
        moved = [
            (numbers[..., NUMBER_PLACES[axis]] - last.numbers[..., NUMBER_PLACES[axis]]) * ITEM_SCALE[axis]
            for axis in ("x", "y")
        ]
        offset = torch.cat([*moved, torch.zeros_like(moved[0])], -1)
        return last.items - torch.where(last.items[..., 2:] > 0, offset, 0.0)


def _find_range(field: Field) -> tuple[float, float]:
    """What the game could store."""
    if not field.is_whole:
        return -field.largest, field.largest
    return 0.0, min(field.largest, LIMITS[field.tight or field.storage])
