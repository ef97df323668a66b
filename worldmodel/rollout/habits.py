"""How players behave over many frames: whether long rollouts are like real games where they cannot be the same."""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel.features.facts import Facts
from worldmodel.schema import FRAMES_PER_SECOND, PLAYERS

MINUTE = 60 * FRAMES_PER_SECOND


class Habits:
    """Counts over the frames of some games, both players' together."""

    NAMES = ("air_share", "actions_per_minute", "damage_per_minute", "stocks_per_minute")
    """Share of time in the air; changes of action, percent dealt and stocks lost, per player and minute of play."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(len(self.NAMES), dtype=torch.float64, device=device)
        self._frames = 0

    def add(self, before: Facts, frame: Facts) -> None:
        """Adds a frame (T = 1) of B games that follows another."""

        def change(name: str) -> Tensor:
            return frame.get(name) - before.get(name)

        found = (
            frame.get("on_ground") < 0.5,
            change("action") != 0,
            change("percent").clamp(min=0),
            (-change("stocks")).clamp(min=0),
        )
        self._sums += torch.stack([values.sum().double() for values in found])
        self._frames += len(frame.numbers) * PLAYERS

    def compute(self) -> dict[str, float]:
        """Each by name. Frames per stock are `MINUTE / stocks_per_minute`."""
        shares = (self._sums.cpu() / max(1, self._frames)).tolist()
        return {
            name: share * (1 if name == "air_share" else MINUTE) for name, share in zip(self.NAMES, shares, strict=True)
        }
