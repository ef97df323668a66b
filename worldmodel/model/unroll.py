"""A model that feeds itself: frame by frame, from facts to facts, with what it remembers carried along.

    unroller = Unroller(CarriedMemory(model), Feedback(layout))
    unroller.begin(facts)             # C true frames, of which the last ones are the context
    frame = unroller.step(controls)   # the frame after them, and so on

Under lookahead L a model predicts frame n from frames up to n - 1 - L and the controls up to n, as a change against
frame n - 1. So it is rolled with a context that lags: it has seen the frames up to n - 1 - L, true ones first and then
its own, and what it predicts is added to its own frame n - 1. One frame comes out of a step whatever L is.

Gradients flow through what frames add up to (a position is the one before and all changes since) and through what the
model remembers, but not through what it sees of its own frames. Measured on real games: with that path too, steps of
ten frames undo what training has learned (position error over 20 frames 8.3, without it 4.1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.encoding import FeatureLayout
from worldmodel.features.batch import Inputs, Predictions
from worldmodel.features.facts import Facts, stack_games
from worldmodel.features.feedback import Feedback
from worldmodel.model.state import State
from worldmodel.model.world_model import WorldModel

Call = Callable[..., Any]
"""A model's forward."""


class Memory(ABC):
    """What a predictor keeps of the frames behind the present one."""

    context: int = 1
    """Frames that a prediction needs at least."""

    @abstractmethod
    def begin(self, inputs: Inputs, ends: Sequence[int]) -> None:
        """Forget all, and see frames that are not predicted from.

        `ends`: how many frames to see, ascending. With M of them the B games become M x B: what is known of all games
        after the first end, then after the second, and so on.
        """

    @abstractmethod
    def predict(self, inputs: Inputs) -> Predictions:
        """See one more frame (T = N = 1) of each game, and predict from it."""


class CarriedMemory(Memory):
    """The recurrent state of a model: a frame costs the same however many are behind it."""

    def __init__(self, model: WorldModel, call: Call | None = None) -> None:
        """`call`: computes a pass of the model; None: the model itself."""
        self._model, self._call = model, call or model
        self.state: State | None = None

    def begin(self, inputs: Inputs, ends: Sequence[int]) -> None:
        """See `Memory.begin`."""
        state, first, found = self._model.empty_state(len(inputs.floats)), 0, []
        for end in ends:
            if end > first:
                piece = _cut(inputs, slice(first, end))
                state = self._call(piece, state if first else None)[1]
            found.append(state)
            first = end
        self.state = found[0] if len(found) == 1 else found[0].join(found[1:])

    def predict(self, inputs: Inputs) -> Predictions:
        """See `Memory.predict`."""
        assert self.state is not None, "begin comes first"
        said: tuple[Predictions, State] = self._call(inputs, self.state)
        self.state = said[1]
        return said[0]


class WindowMemory(Memory):
    """The last K frames, which are read again for each frame: what a model trained on windows knows."""

    def __init__(self, model: WorldModel, call: Call | None = None) -> None:
        """`call`: computes a pass of the model; None: the model itself."""
        self._call, self.context = call or model, model.config.context_len
        self._seen: Inputs | None = None

    def begin(self, inputs: Inputs, ends: Sequence[int]) -> None:
        """See `Memory.begin`."""
        pieces = [_cut(inputs, slice(max(0, end + 1 - self.context), end)) for end in ends]
        floats, classes = (torch.cat([getattr(p, name) for p in pieces]) for name in ("floats", "classes"))
        self._seen = Inputs(floats, classes, inputs.controls.repeat(len(ends), 1, 1))

    def predict(self, inputs: Inputs) -> Predictions:
        """See `Memory.predict`."""
        if self._seen is not None:
            floats = torch.cat([self._seen.floats, inputs.floats], 1)[:, -self.context :]
            classes = torch.cat([self._seen.classes, inputs.classes], 1)[:, -self.context :]
            inputs = Inputs(floats, classes, inputs.controls)
        self._seen = inputs
        predictions: Predictions = self._call(inputs, wants_state=False)[0]
        return predictions


class NoMemory(Memory):
    """Predictions that need the present frame alone, such as the baselines."""

    def __init__(self, predict: Callable[[Inputs], Predictions]) -> None:
        self._predict = predict

    def begin(self, inputs: Inputs, ends: Sequence[int]) -> None:
        """See `Memory.begin`."""

    def predict(self, inputs: Inputs) -> Predictions:
        """See `Memory.predict`."""
        return self._predict(inputs)


class Unroller:
    """Rolls B games on from given frames."""

    def __init__(self, memory: Memory, feedback: Feedback) -> None:
        self.memory, self.feedback = memory, feedback
        self.layout: FeatureLayout = feedback.layout
        self.lookahead = self.layout.config.lookahead
        self.encoder = feedback.encoder
        self._frames: Facts | None = None
        self._kept = max(2, 1 + self.lookahead)

    @property
    def context(self) -> int:
        """True frames that a roll needs at least before its first own one."""
        return self.memory.context + self.lookahead

    @property
    def frames(self) -> Facts:
        """The last frames, own or true: as many as the next step needs."""
        assert self._frames is not None, "begin comes first"
        return self._frames

    def begin(self, facts: Facts, ends: Sequence[int] = ()) -> None:
        """Start behind true frames, of which all are seen.

        Args:
            facts: at least `context` frames.
            ends: where to start instead, as numbers of frames, ascending, each at least `context`. With M of them the B
                games become M x B: all games from the first end on, then all from the second, and so on.
        """
        ends = ends or (facts.frames,)
        assert min(ends) >= self.context, f"{min(ends)} frames are fewer than the {self.context} needed"
        self.feedback.choice.restart()
        behind = [end - 1 - self.lookahead for end in ends]
        self.memory.begin(self._encode(facts.cut(slice(0, behind[-1])), None), behind)
        kept = [facts.cut(slice(max(0, end - self._kept), end)) for end in ends]
        self._frames = stack_games([piece.cut(slice(-min(k.frames for k in kept), None)) for piece in kept])

    def step(self, controls: Float[Tensor, "batch player control"]) -> Facts:
        """The next frame (T = 1) under these controls of both players; the one after goes on from it."""
        predictions = self.predict(controls)
        return self.accept(self.feedback.advance(self.frames, predictions, controls))

    def predict(self, controls: Float[Tensor, "batch player control"]) -> Predictions:
        """What the model says of the next frame; `accept` must follow."""
        end = self.frames.frames - self.lookahead
        context = self.frames.detach().cut(slice(end - 1, end))
        return self.memory.predict(self._encode(context, controls))

    def accept(self, frame: Facts) -> Facts:
        """Take a frame (T = 1), own or true, for the one that has come."""
        self._frames = self.frames.join(frame).cut(slice(-self._kept, None))
        return frame

    def _encode(self, facts: Facts, controls: Tensor | None) -> Inputs:
        floats, classes = self.encoder.encode(facts)
        if controls is None:  # frames that are only seen: what conditions a prediction does not matter
            return Inputs(floats, classes, floats.new_zeros(len(floats), 1, self.layout.control_width))
        before = self.frames.controls[:, -1 - self.lookahead :].detach()
        given = torch.cat([before, controls.unsqueeze(1)], 1)
        return Inputs(floats, classes, self.encoder.encode_controls(given))


def make_memory(model: WorldModel, mode: str, call: Call | None = None) -> Memory:
    """What a model trained in a mode ("sequence" or "window") remembers in a rollout: what it did in training.

    `call`: computes a pass of the model; None: the model itself.
    """
    return CarriedMemory(model, call) if mode == "sequence" else WindowMemory(model, call)


def _cut(inputs: Inputs, frames: slice) -> Inputs:
    return Inputs(inputs.floats[:, frames], inputs.classes[:, frames], inputs.controls)
