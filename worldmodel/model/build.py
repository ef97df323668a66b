"""The one place where a model is made."""

from __future__ import annotations

from worldmodel.encoding import FeatureLayout
from worldmodel.model.config import ModelConfig
from worldmodel.model.mlp import FrameStackMLP
from worldmodel.model.world_model import Mamba2WorldModel, WorldModel


def build_model(config: ModelConfig, layout: FeatureLayout) -> WorldModel:
    """A freshly initialised model of `config`'s architecture for the inputs and targets of `layout`.

    Initialisation is the users': torch's defaults; dt_bias uniform in -1..1, A_log = log(1..H), D = 1.
    """
    return Mamba2WorldModel(config, layout) if config.arch == "mamba2" else FrameStackMLP(config, layout)
