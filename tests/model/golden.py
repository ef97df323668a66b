"""The users' golden arrays (see the shared folder's golden/README.md) as Inputs, Targets and Predictions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.features.batch import Inputs, Predictions, Targets
from worldmodel.features.config import EncodingConfig, FeatureLayout
from worldmodel.model.config import ModelConfig
from worldmodel.schema import PLAYERS

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
        return EncodingConfig(**{key: theirs[key] for key in ours}).layout

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
