"""A model for other programs: its weights as safetensors, or one step of it as a program that torch runs alone.

Neither needs this package (the README has the lines that run a step). What the columns mean stands in the file, see
`describe_layout`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from worldmodel.encoding import FeatureLayout
from worldmodel.errors import UserError
from worldmodel.features.batch import Inputs, Predictions
from worldmodel.features.columns import number_sources
from worldmodel.local_file import replacing
from worldmodel.model.state import State
from worldmodel.model.world_model import WorldModel
from worldmodel.schema import ITEM_SCALE, PLAYERS, STAGE, Field, Kind

States = tuple[Tensor, ...]
Stepped = tuple[dict[str, Tensor], States]
CALL = (
    "predictions, states = module(floats (B, 1, column), classes (B, 1, column) int64, controls (B, 1, column), states)"
    "; states: zeros before the first frame; predictions: term to (B, 1, player, field), of classes their logits"
)


class Step(nn.Module):
    """One frame of B games, in plain tensors; the memory is the model's own."""

    warm_up = 0
    """Frames at the start whose predictions mean nothing."""

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.model = model

    def empty_states(self, batch: int) -> States:
        """What `forward` takes before the first frame."""
        return self.model.empty_state(batch).tensors

    def forward(self, floats: Tensor, classes: Tensor, controls: Tensor, states: States) -> Stepped:
        """Predictions by term, and the states for the next frame."""
        predictions, after = self.model.step(Inputs(floats, classes, controls), State(states))
        return _join(predictions), after.tensors


class WindowStep(Step):
    """The same for a model trained on windows, as rollouts do it: the memory is the K - 1 frames before."""

    def __init__(self, model: WorldModel) -> None:
        super().__init__(model)
        self.warm_up = model.config.context_len - 1

    def empty_states(self, batch: int) -> States:
        """See `Step.empty_states`."""
        layout = self.model.layout
        floats = torch.zeros(batch, self.warm_up, layout.float_width)
        return floats, torch.zeros(batch, self.warm_up, layout.class_width, dtype=torch.int64)

    def forward(self, floats: Tensor, classes: Tensor, controls: Tensor, states: States) -> Stepped:
        """See `Step.forward`."""
        floats, classes = torch.cat([states[0], floats], 1), torch.cat([states[1], classes], 1)
        predictions, _ = self.model(Inputs(floats, classes, controls), wants_state=False)
        return _join(predictions), (floats[:, 1:], classes[:, 1:])


def _join(predictions: Predictions) -> dict[str, Tensor]:
    return {**predictions.numbers, **predictions.logits}


def export_weights(model: WorldModel, path: Path, about: Mapping[str, Any]) -> None:
    """Writes the weights as safetensors; metadata "worldmodel": `about` and the layout, as JSON."""
    text = json.dumps({**about, "layout": describe_layout(model.layout)})
    with replacing(path) as file:
        file.write(save(model.state_dict(), {"worldmodel": text}))


def export_step(model: WorldModel, path: Path, about: Mapping[str, Any], *, mode: str) -> None:
    """Writes `model`'s step, for any number of games side by side; `mode`: what it was trained on (`training.mode`).

    Raises:
        UserError: torch.export cannot take this model.
    """
    step = (Step if mode == "sequence" else WindowStep)(model).eval().requires_grad_(False)
    example, layout = step.empty_states(2), model.layout
    floats, controls = torch.zeros(2, 1, layout.float_width), torch.zeros(2, 1, layout.control_width)
    classes = torch.zeros(2, 1, layout.class_width, dtype=torch.int64)
    first = {0: torch.export.Dim("batch", min=1)}
    shapes = (first, first, first, tuple(first for _ in example))
    try:
        program = torch.export.export(step, (floats, classes, controls, example), dynamic_shapes=shapes)
    except Exception as error:
        raise UserError(
            f"torch.export cannot take this {model.config.arch} model ({type(error).__name__}: {error}); "
            "--format safetensors gives its weights"
        ) from error
    states = [{"shape": list(t.shape[1:]), "dtype": str(t.dtype).removeprefix("torch.")} for t in example]
    told = {**about, "call": CALL, "states": states, "warm_up": step.warm_up, "layout": describe_layout(layout)}
    with replacing(path) as file:
        torch.export.save(program, file, extra_files={"worldmodel.json": json.dumps(told)})  # type: ignore[arg-type]


def describe_layout(layout: FeatureLayout) -> dict[str, Any]:
    """What each column of a step means, as plain values.

    "floats": [name, scale]: the model sees value x scale. "classes": [name, vocabulary, empty]: the model sees the
    value, at most vocabulary - 1; where `empty` is no null, that value is class 0, and any other value v is v + 1.
    "controls": names; "+1" is the frame after the one shown, and the last is the one predicted. "predictions": term to
    its fields and how they are said: `delta` (of value x scale, to the frame before), `value` (x scale), `logit`,
    `class`.
    """
    sources, places = number_sources(layout)
    floats = {s.place: [f"p{s.player}_{_name_bits(s.field)[s.bit]}", _find_scale(s.field)] for s in sources}
    items = [[f"p{p}_nearest_item_{name}", scale] for p in range(PLAYERS) for name, scale in ITEM_SCALE.items()]
    floats |= dict(zip(places, items, strict=False))
    classes = [[f"p{p}_{f.name}", f.vocabulary, f.empty] for p in range(PLAYERS) for f in layout.categories]
    presses = [f"{field.name}_pressed" for field in layout.buttons if layout.config.press_events]
    groups = [[field.name for field in layout.controls], presses]
    return {
        "floats": [floats[place] for place in range(layout.float_width)],
        "classes": [*classes, ["stage", STAGE.vocabulary, STAGE.empty]],
        "controls": [
            f"p{p}_{name}+{1 + ahead}"
            for ahead in range(1 + layout.config.lookahead) for group in groups for p in range(PLAYERS)
            for name in group
        ],
        "predictions": {
            term: {"fields": [name for f in fields for name in _name_bits(f)], "as": str(fields[0].target)}
            for term, fields in [*layout.number_targets.items(), *((t, (f,)) for t, f in layout.class_targets.items())]
        },
    }  # fmt: skip


def _name_bits(field: Field) -> list[str]:
    return [field.name] if field.bits == 1 else [f"{field.name}_bit_{bit}" for bit in range(field.bits)]


def _find_scale(field: Field) -> float:
    return field.scale if field.kind is Kind.CONTINUOUS else 1.0
