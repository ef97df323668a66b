"""The world model: from the frames so far and the next controls to the next frame."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from worldmodel.encoding import FeatureLayout
from worldmodel.errors import UserError
from worldmodel.features.batch import Inputs, Predictions
from worldmodel.features.context import ContextFrames, compute_drift
from worldmodel.machine.fused import fused
from worldmodel.model.config import ModelConfig
from worldmodel.model.mamba2 import Mamba2Layer
from worldmodel.model.norm import RMSNorm
from worldmodel.model.state import State
from worldmodel.schema import PLAYERS, STAGE, Field, Rule, Target, field_named

ACTION = "action"
STAY = 4.0
"""Where the learned numbers of `rule_prior` start: as logits, a flag stays as it is with probability .98."""


class WorldModel(nn.Module):
    """What the architectures share: embeddings of a frame, and heads, under the users' parameter names.

    `<label>_embed`, `<term>_head` (player 0's numbers, then player 1's) and `p<player>_<label>_head`, where a label is
    `Field.short`. `build.build_model` makes one.
    """

    def __init__(self, config: ModelConfig, layout: FeatureLayout) -> None:
        super().__init__()
        self.config, self.layout = config, layout
        _ = layout.number_columns, layout.class_columns  # cached now: torch.compile cannot make them
        for field in (*layout.categories, STAGE):
            self.add_module(f"{field.short}_embed", nn.Embedding(field.vocabulary, field.embedding))

    @abstractmethod
    def forward(self, inputs: Inputs, state: State | None = None, *, wants_state: bool = True) -> tuple[
        Predictions, State
    ]:  # fmt: skip
        """Predicts from each of the last N frames, N being the number of positions in `inputs.controls`.

        Frames go on where those behind `state` ended (None: at a game's start), and the state returned goes on behind
        these. Training that does not carry states sets `wants_state` to False: it saves work, and the state returned is
        then empty and of no use. Under autocast, predictions are of the autocast type.
        """

    @abstractmethod
    def empty_state(self, batch: int) -> State:
        """The memory of `batch` games before their first frame."""

    def step(self, inputs: Inputs, state: State) -> tuple[Predictions, State]:
        """`forward` for one more frame (T = N = 1), at a cost that does not grow with the frames before it."""
        stepped: tuple[Predictions, State] = self(inputs, state)
        return stepped

    def add_heads(self, width: int) -> None:
        """Makes the heads: one for each term of numbers, one per player for each term of classes."""
        for term in self.layout.number_targets:
            self.add_module(f"{term}_head", nn.Linear(width, PLAYERS * self.layout.number_width(term)))
        for field in self.layout.class_targets.values():
            for player in range(PLAYERS):
                self.add_module(f"p{player}_{field.short}_head", nn.Linear(width, field.vocabulary))
        if self.config.output_scale != 1:
            for term in self._relative_terms():
                for part in ("weight", "bias"):
                    nn.init.zeros_(self.get_parameter(f"{term}_head.{part}"))
        if self.config.copy_prior:
            self.copy_logit = nn.Parameter(torch.tensor(self.config.copy_prior))
        if self.config.rule_prior:
            self.stay_logit = nn.Parameter(torch.full((len(self._staying_terms()),), STAY))

    def embed_frames(
        self, floats: Float[Tensor, "batch time float"], classes: Int[Tensor, "batch time class"]
    ) -> Float[Tensor, "batch time frame"]:
        """A frame's whole input: its numbers, player 0's embeddings, player 1's, the stage's."""
        players = classes[..., :-1].reshape(*classes.shape[:-1], PLAYERS, -1)
        parts = [self._embed(f.short, players[..., place]) for place, f in enumerate(self.layout.categories)]
        stage = self._embed(STAGE.short, classes[..., -1])
        return torch.cat([floats, torch.cat(parts, -1).flatten(-2), stage], -1)

    def predict(self, hidden: Float[Tensor, "batch position hidden"]) -> Predictions:
        """All heads, as one matrix product."""
        numbers = {term: self.layout.number_width(term) for term in self.layout.number_targets}
        logits = {term: field.vocabulary for term, field in self.layout.class_targets.items()}
        labels = [field.short for field in self.layout.class_targets.values()]
        names = [*numbers, *(f"p{player}_{label}" for label in labels for player in range(PLAYERS))]
        weight, bias = (
            torch.cat([getattr(getattr(self, f"{name}_head"), part) for name in names]) for part in ("weight", "bias")
        )
        widths = [PLAYERS * width for width in (*numbers.values(), *logits.values())]
        joint = torch.split(F.linear(hidden, weight, bias), widths, -1)
        outputs = [out.reshape(*out.shape[:-1], PLAYERS, -1) for out in joint]
        count = len(numbers)
        return Predictions(
            numbers=dict(zip(numbers, outputs[:count], strict=True)),
            logits=dict(zip(logits, outputs[count:], strict=True)),
        )

    def add_priors(self, predictions: Predictions, inputs: Inputs) -> Predictions:
        """Predictions with what is known before any learning: `output_scale`, `kinematic_head`, `copy_prior`,
        `rule_prior`."""
        if self.config.is_published:
            return predictions
        numbers, logits = dict(predictions.numbers), dict(predictions.logits)
        frames = ContextFrames(inputs, self.layout)
        for term in self._relative_terms():
            numbers[term] = numbers[term].float() * self.config.output_scale
        if self.config.rule_prior:
            self._add_rules(numbers, logits, frames)
        if self.config.kinematic_head:
            numbers |= self._add_drift(numbers, frames)
        if self.config.copy_prior:
            held = frames.category(ACTION).unsqueeze(-1)
            logits[ACTION] = _raise_logit(logits[ACTION], held, self.copy_logit)
        return Predictions(numbers, logits)

    def _relative_terms(self) -> list[str]:
        """Terms whose heads say how far a number is from what is known of it."""
        kinds = (Target.DELTA, Target.VALUE) if self.config.rule_prior else (Target.DELTA,)
        return [term for term, fields in self.layout.number_targets.items() if fields[0].target in kinds]

    def _staying_terms(self) -> list[str]:
        """Terms of flags and classes, but for the action, which has a prior of its own."""
        flags = [term for term, fields in self.layout.number_targets.items() if fields[0].target is Target.LOGIT]
        return flags + [term for term in self.layout.class_targets if term != ACTION]

    def _add_rules(self, numbers: dict[str, Tensor], logits: dict[str, Tensor], frames: ContextFrames) -> None:
        """Values count down or stay by their rule; flags and classes most often stay."""
        for term, fields in self.layout.number_targets.items():
            if fields[0].target is Target.VALUE:
                ruled = [self._follow_rule(field, frames.numbers(field)) for field in fields]
                numbers[term] = numbers[term] + torch.cat(ruled, -1)
        for term, weight in zip(self._staying_terms(), self.stay_logit, strict=True):
            if term in numbers:
                now = torch.cat([frames.numbers(field) for field in self.layout.number_targets[term]], -1)
                numbers[term] = numbers[term].float() + weight * (2 * now - 1)
            else:
                held = frames.category(self.layout.class_targets[term].name).unsqueeze(-1)
                logits[term] = _raise_logit(logits[term], held, weight)

    def _follow_rule(self, field: Field, now: Tensor) -> Tensor:
        if field.rule is not Rule.COUNT_DOWN:
            return now
        return (now - field.scale * (1 + self.layout.config.lookahead)).clamp(min=0)

    def _add_drift(self, numbers: dict[str, Tensor], frames: ContextFrames) -> dict[str, Tensor]:
        """Positions move by the speeds that are predicted for their frame, and by what the head adds."""

        def speed(name: str) -> Tensor:
            field = field_named(name)
            if field.loss not in numbers:  # the speeds of the frame before are the best guess
                return frames.number(name)
            place = [f.name for f in self.layout.number_targets[field.loss]].index(name)
            change = numbers[field.loss][..., place]
            return frames.number(name) + change / field.scale

        found: dict[str, Tensor] = {}
        for name, drift in compute_drift(frames, speed).items():
            field = field_named(name)
            fields = self.layout.number_targets[field.loss]
            place = [f.name for f in fields].index(name)
            step = F.pad(drift[..., None] * field.scale, (place, len(fields) - place - 1))
            found[field.loss] = found.get(field.loss, numbers[field.loss]) + step
        return found

    def _embed(self, label: str, classes: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch width"]:
        return F.embedding(classes, getattr(self, f"{label}_embed").weight)


def _raise_logit(logits: Tensor, held: Int[Tensor, "*batch 1"], weight: Float[Tensor, ""]) -> Tensor:
    """Logits with `weight` added to that of the class held."""
    logits = logits.to(torch.promote_types(logits.dtype, weight.dtype))
    if torch.compiler.is_compiling():
        return logits + torch.where(held == torch.arange(logits.size(-1), device=held.device), weight, 0)
    return logits.scatter_add(-1, held, weight.expand(held.shape))


class Mamba2WorldModel(WorldModel):
    """The users' Mamba-2 world model: a stack of residual Mamba-2 blocks over frames; the controls join at its end.

    The next controls are added after the last norm, so one pass over a sequence serves every position.
    """

    def __init__(self, config: ModelConfig, layout: FeatureLayout) -> None:
        super().__init__(config, layout)
        self.frame_proj = nn.Linear(layout.frame_width, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Mamba2Layer(config) for _ in range(config.n_layers))
        self.final_norm = RMSNorm(config.d_model)
        self.ctrl_proj = nn.Linear(layout.control_width, config.d_model)
        self.add_heads(config.d_model)

    def forward(
        self, inputs: Inputs, state: State | None = None, *, wants_state: bool = True
    ) -> tuple[Predictions, State]:
        """See `WorldModel.forward`."""
        x = self.dropout(_read_frames(self, inputs.floats, inputs.classes)).to(self.frame_proj.weight.dtype)
        found: list[Tensor] = []
        positions = inputs.controls.size(1)
        for layer, before in zip(self.layers, self._share(state), strict=True):
            keep = positions if layer is self.layers[-1] else x.size(1)
            x, after = layer(x, before, keep=keep, wants_state=wants_state)
            found += after or ()
        predictions = _say(self, x, inputs.floats, inputs.classes, inputs.controls)
        return Predictions(*predictions), State(tuple(found))

    def empty_state(self, batch: int) -> State:
        """See `WorldModel.empty_state`."""
        return State(tuple(t for layer in self.layers for t in layer.empty_state(batch)))  # type: ignore[operator]

    def _share(self, state: State | None) -> list[tuple[Tensor, Tensor] | None]:
        """Each layer's part of the state."""
        if state is None:
            return [None] * len(self.layers)
        if len(state.tensors) != 2 * len(self.layers):
            raise UserError(
                f"A state of {len(state.tensors)} tensors cannot be continued by {len(self.layers)} Mamba-2 layers, "
                "which keep two each: take it from this model, called with wants_state."
            )
        return list(zip(state.tensors[::2], state.tensors[1::2], strict=True))


@fused
def _read_frames(model: Mamba2WorldModel, floats: Tensor, classes: Tensor) -> Tensor:
    """The residual stream before the first layer."""
    x: Tensor = model.frame_proj(model.embed_frames(floats, classes))
    return x


@fused
def _say(
    model: Mamba2WorldModel, x: Tensor, floats: Tensor, classes: Tensor, controls: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Numbers and logits, for the residual stream behind the last layer."""
    hidden = model.final_norm(x) + model.ctrl_proj(controls)
    found = model.add_priors(model.predict(hidden), Inputs(floats, classes, controls))
    return found.numbers, found.logits
