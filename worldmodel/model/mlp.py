"""The users' MLP: K frames side by side, two hidden layers."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldmodel.encoding import FeatureLayout
from worldmodel.errors import UserError
from worldmodel.features.batch import Inputs, Predictions
from worldmodel.model.config import ModelConfig
from worldmodel.model.state import State
from worldmodel.model.world_model import WorldModel


class FrameStackMLP(WorldModel):
    """Sees exactly `context_len` frames per prediction; its state is the K - 1 frames before the next one."""

    def __init__(self, config: ModelConfig, layout: FeatureLayout) -> None:
        super().__init__(config, layout)
        self.trunk = nn.Sequential(
            nn.Linear(config.context_len * layout.frame_width + layout.control_width, config.hidden_dim),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden_dim, config.trunk_dim),
            nn.ReLU(),
            nn.Dropout(config.dropout),
        )
        self.add_heads(config.trunk_dim)

    def forward(
        self, inputs: Inputs, state: State | None = None, *, wants_state: bool = True
    ) -> tuple[Predictions, State]:
        """See `WorldModel.forward`. Raises `UserError` where a position has fewer than K frames before it."""
        frames = self.embed_frames(inputs.floats, inputs.classes)
        if state is not None:
            frames = torch.cat([*state.tensors, frames], 1)
        windows = self._stack(frames, inputs.controls.size(1))
        hidden: Tensor = self.trunk(torch.cat([windows, inputs.controls], -1))
        kept = (frames[:, frames.size(1) - self.config.context_len + 1 :],) if wants_state else ()
        return self.add_priors(self.predict(hidden), inputs), State(kept)

    def empty_state(self, batch: int) -> State:
        """K - 1 frames of zeros. The users' MLP never saw such: give it a game's first frames instead, if you can."""
        return State(
            (
                self.get_parameter("trunk.0.weight").new_zeros(
                    batch, self.config.context_len - 1, self.layout.frame_width
                ),
            )
        )

    def _stack(
        self, frames: Float[Tensor, "batch time frame"], positions: int
    ) -> Float[Tensor, "batch position stack"]:
        """The last K frames of each of the last positions, side by side, oldest first."""
        size = self.config.context_len
        if frames.size(1) < positions + size - 1:
            raise UserError(
                f"The MLP sees {size} frames per prediction (model.context_len); it got {frames.size(1)} frames for "
                f"{positions} predictions. Train it on windows of {size} frames, or use model.arch 'mamba2'."
            )
        stacked = frames.unfold(1, size, 1)[:, -positions:]  # (batch, position, frame, K)
        return stacked.transpose(-1, -2).flatten(2)
