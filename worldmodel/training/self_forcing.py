"""Training on the model's own predictions (Huang et al. 2025, https://arxiv.org/abs/2506.08009, for frames of a game).

In some steps, which are a function of the step alone, the model sees true frames up to a few points of each sample, and
from each of them goes on alone for N frames, as in a rollout: its own frames, true controls. The loss says how far each
of these frames is from the true one, and its gradient flows back through all of them: an early error that costs much
later is an error. What the model remembers of the true frames is taken as given (ordinary steps teach it that), and so
is what it sees of its own ones (`model/unroll.py`). Its errors are divided by an ordinary step's targets where those
are more (`training/feed.py`).

A sample of L frames is left at three points, L/4, L/2 and 3L/4: the frames up to there are read once for all three. A
window is left at its end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.experiment.config import FORKS, SelfForcingConfig
from worldmodel.features.batch import Predictions, Targets
from worldmodel.features.facts import FactReader, Facts, stack_games
from worldmodel.features.feedback import Feedback
from worldmodel.features.plan import Samples, SampleShape
from worldmodel.features.spots import Traits
from worldmodel.features.store import FrameStore, Parts
from worldmodel.model.unroll import Unroller, make_memory
from worldmodel.model.world_model import WorldModel
from worldmodel.training.loss import ACTION_TERM


def find_length(config: SelfForcingConfig, step: int, steps_per_epoch: int) -> int:
    """Frames that the model makes on its own in step `step` (from 0): 0 in ordinary steps."""
    if not config.enabled or step % (config.ratio + 1) != config.ratio:
        return 0
    if not config.curriculum:
        return config.unroll_length
    return config.curriculum[min(step // steps_per_epoch, len(config.curriculum) - 1)]


def find_ends(shape: SampleShape, length: int) -> tuple[int, ...]:
    """After how many true frames of a sample the model goes on alone, for `length` frames each."""
    if shape.mode == "window":
        return (shape.context + shape.lookahead,)
    points = [max(1, shape.length * part // FORKS) + shape.lookahead for part in range(1, FORKS)]
    return tuple(sorted({point for point in points if point + length <= shape.frames}))


@dataclass(frozen=True, kw_only=True)
class Excursion:
    """What a self-forcing step needs besides a batch: frames, and where the model leaves them."""

    facts: Facts
    """All frames of each sample, those that it makes itself included."""
    ends: tuple[int, ...]
    """See `find_ends`."""
    length: int
    """Frames from each end on."""
    lengths: Tensor
    """(B,) frames of each sample that its game has; 0: nothing of it counts."""
    present: dict[str, Tensor]
    """See `Targets`."""

    @property
    def valid(self) -> Tensor:
        """(M x B, length) whether a frame lies within its game."""
        steps = torch.arange(self.length, device=self.lengths.device)
        return torch.cat([end + steps < self.lengths[:, None] for end in self.ends])


class ExcursionReader:
    """Reads excursions for the samples of a feed."""

    def __init__(self, store: FrameStore, reader: FactReader, shape: SampleShape) -> None:
        self._store, self._reader, self._shape = store, reader, shape

    def count_frames(self, length: int) -> int:
        """Frames that are read of each sample."""
        return find_ends(self._shape, length)[-1] + length

    def open(
        self, parts: Parts, traits: Traits, length: int, present: dict[str, Tensor], *,
        swaps: bool,
    ) -> Excursion:  # fmt: skip
        """Samples to be left for `length` frames, of which `count_frames` were gathered; all on the device."""
        lacks = self._reader.find_lacks(self._store, traits.games)
        facts = self._reader.open(parts, self._store.stages[traits.games], self.count_frames(length), lacks)
        if swaps:
            facts = facts.swap_players(traits.swapped)
        ends = find_ends(self._shape, length)
        return Excursion(facts=facts, ends=ends, length=length, lengths=traits.left, present=present)

    def count(self, samples: Samples, length: int) -> np.ndarray:
        """(B,) frames that the model makes of each sample within its game."""
        left = self._store.game_lengths(samples) - samples.starts
        each = [(left - end).clip(0, length) for end in find_ends(self._shape, length)]
        counts: np.ndarray = np.sum(each, 0)
        return counts


def go_alone(
    model: WorldModel, mode: str, excursion: Excursion, feedback: Feedback, call: Callable[..., Any]
) -> tuple[Predictions, Targets]:
    """What the model says of its own frames, and what it ought to have said (N = `length`, from M x B starts).

    `call`: what computes the first of these passes: it is there that several workers prepare their gradients' sum.
    """
    unroller = Unroller(make_memory(model, mode, _Once(call, model)), feedback)
    facts, starts = excursion.facts, len(excursion.ends)
    with torch.no_grad():
        unroller.begin(facts.cut(slice(0, excursion.ends[-1])), excursion.ends)
    said, numbers, classes, held = [], [], [], []
    for step in range(excursion.length):
        true = _pick(facts, [end + step for end in excursion.ends])
        before, controls = unroller.frames.cut(slice(-1, None)), true.controls[:, 0]
        said.append(unroller.predict(controls))
        unroller.accept(feedback.advance(unroller.frames, said[-1], controls))
        due = feedback.aim(before, true)
        numbers.append(due[0])
        classes.append(due[1])
        held.append(feedback.aim(before, before)[1][ACTION_TERM])
    action = torch.cat(held, 1)
    return Predictions(_join([one.numbers for one in said]), _join([one.logits for one in said])), Targets(
        numbers=_join(numbers),
        classes=_join(classes),
        context_action=action,
        previous_action=action,
        valid=excursion.valid,
        present={term: table.repeat(starts, 1, 1) for term, table in excursion.present.items()},
    )


class _Once:
    """The first call that gradients flow through goes one way, all others another."""

    def __init__(self, first: Callable[..., Any], later: Callable[..., Any]) -> None:
        self._first: Callable[..., Any] | None = first
        self._later = later

    def __call__(self, *args: Any, **options: Any) -> Any:
        if self._first is None or not torch.is_grad_enabled():
            return self._later(*args, **options)
        call, self._first = self._first, None
        return call(*args, **options)


def _pick(facts: Facts, frames: list[int]) -> Facts:
    """One frame behind each end, as T = 1 of M x B games."""
    return stack_games([facts.cut(slice(frame, frame + 1)) for frame in frames])


def _join(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}
