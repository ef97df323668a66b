"""The users' golden arrays (see the shared folder's golden/README.md) as Inputs, Targets and Predictions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.encoding import EncodingConfig, FeatureLayout
from worldmodel.features.batch import Inputs, Predictions, Targets
from worldmodel.model.config import ModelConfig
from worldmodel.schema import PLAYERS, STAGE

ENCODINGS = ("baseline", "1a2a", "3a1a", "v3proj")
ARCHS = ("mamba2", "mlp")
MODELS = [(arch, encoding) for arch in ARCHS for encoding in ENCODINGS]
USERS_NAMES = {
    "continuous": "continuous_delta", "velocity": "velocity_delta", "dynamics": "dynamics_pred",
    "binary": "binary_logits",
}  # fmt: skip
"""Loss term to the users' name of its prediction."""


@dataclass(frozen=True)
class Golden:
    """The golden files of one model on one encoding."""

    folder: Path
    arch: str
    encoding: str

    @property
    def index(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "index.json").read_text())
        return found

    @property
    def layout(self) -> FeatureLayout:
        theirs = self.index["encodings"][self.encoding]
        ours = EncodingConfig.__dataclass_fields__
        return EncodingConfig(**{key: theirs[key] for key in ours if key in theirs}).layout

    @property
    def config(self) -> ModelConfig:
        sizes = self.index["models"][f"{self.arch}_{self.encoding}"]
        return ModelConfig(arch=self.arch, context_len=self.index["context_len"], dropout=0.0, **sizes)  # type: ignore[arg-type]

    @property
    def metrics(self) -> dict[str, float]:
        found: dict[str, float] = self.index["metrics"][f"{self.arch}_{self.encoding}"]
        return found

    def arrays(self, kind: str) -> dict[str, Tensor]:
        name = self.encoding if kind == "samples" else f"{self.arch}_{self.encoding}"
        with np.load(self.folder / f"{kind}_{name}.npz") as found:
            return {key: torch.from_numpy(found[key]) for key in found}

    def weights(self) -> dict[str, Tensor]:
        return {k.removeprefix("state/"): v for k, v in self.arrays("model").items() if k.startswith("state/")}

    def inputs(self) -> Inputs:
        samples = self.arrays("samples")
        return Inputs(samples["float_ctx"], samples["int_ctx"], samples["next_ctrl"].unsqueeze(1))

    def targets(self) -> Targets:
        return golden_targets(self.arrays("samples"), self.layout)

    def predictions(self, kind: str) -> Predictions:
        """What the users' model said (`model`), or the arrays that the metrics were computed from (`metrics`)."""
        found = {key.removeprefix("pred/"): value.unsqueeze(1) for key, value in self.arrays(kind).items()}
        numbers = {t: found[USERS_NAMES[t]].unflatten(-1, (PLAYERS, -1)) for t in self.layout.number_targets}
        logits = {
            term: torch.stack([found[f"p{player}_{f.short}_logits"] for player in range(PLAYERS)], 2)
            for term, f in self.layout.class_targets.items()
        }
        return Predictions(numbers, logits)


def golden_targets(samples: dict[str, Tensor], layout: FeatureLayout) -> Targets:
    """The users' target arrays, split by term: both players' deltas, speeds, flags, dynamics; classes by player."""
    rows = len(samples["float_tgt"])
    order = ("continuous", "velocity", "binary", "dynamics")
    parts = samples["float_tgt"].split([PLAYERS * layout.number_width(term) for term in order], -1)
    numbers = {t: p.view(rows, 1, PLAYERS, -1) for t, p in zip(order, parts, strict=True)}
    classes = samples["int_tgt"].view(rows, 1, PLAYERS, -1)
    action = [f.name for f in layout.categories].index("action")
    context = samples["int_ctx"][:, -1:, :-1].unflatten(-1, (PLAYERS, -1))[..., action]
    present = {t: torch.ones(rows, PLAYERS, layout.number_width(t)) for t in order}
    return Targets(
        numbers={t: numbers[t] for t in layout.number_targets},
        classes={t: classes[..., i] for i, t in enumerate(layout.class_targets)},
        context_action=context,
        previous_action=context,
        valid=torch.ones(rows, 1, dtype=torch.bool),
        present=present | {t: torch.ones(rows, PLAYERS, 1) for t in layout.class_targets},
    )


def random_batch(
    layout: FeatureLayout, *, batch: int = 4, time: int | None = None, positions: int = 1, seed: int = 0
) -> tuple[Inputs, Predictions, Targets]:
    """Arbitrary numbers in the right shapes; about half of the actions change."""
    draw = torch.Generator().manual_seed(seed)
    time = positions if time is None else time

    def classes_of(*vocabularies: int, shape: tuple[int, ...]) -> Tensor:
        return torch.stack([torch.randint(v, shape, generator=draw) for v in vocabularies], -1)

    vocabularies = [f.vocabulary for f in layout.categories] * PLAYERS + [STAGE.vocabulary]
    inputs = Inputs(
        torch.randn(batch, time, layout.float_width, generator=draw),
        classes_of(*vocabularies, shape=(batch, time)),
        torch.rand(batch, positions, layout.control_width, generator=draw),
    )
    rows = (batch, positions, PLAYERS)
    numbers = {t: torch.randn(*rows, layout.number_width(t), generator=draw) for t in layout.number_targets}
    numbers["binary"] = (numbers["binary"] > 0).float()
    classes = {t: torch.randint(f.vocabulary, rows, generator=draw) for t, f in layout.class_targets.items()}
    stays = torch.rand(rows, generator=draw) < 0.5
    other = torch.randint(layout.class_targets["action"].vocabulary, rows, generator=draw)
    widths = {t: layout.number_width(t) for t in numbers} | dict.fromkeys(classes, 1)
    targets = Targets(
        numbers=numbers,
        classes=classes,
        context_action=torch.where(stays, classes["action"], other),
        previous_action=classes["action"].roll(1, 0),
        valid=torch.ones(batch, positions, dtype=torch.bool),
        present={t: torch.ones(batch, PLAYERS, width) for t, width in widths.items()},
    )
    predictions = Predictions(
        {t: torch.randn(v.shape, generator=draw) for t, v in numbers.items()},
        {t: torch.randn(*rows, f.vocabulary, generator=draw) for t, f in layout.class_targets.items()},
    )
    return inputs, predictions, targets
