"""Whether a rollout could be a game: frame by frame, from rules that 102 real games (1.63M frames of a player) keep.

- Inside the blast zones, but for players who are just losing a stock (actions 0 to 10), who overshoot by up to 16
  units, and above the top, where only launched players are lost: real players get 14 units beyond it.
- Stocks never rise.
- Percent never falls but within 64 frames of a lost stock (it is reset 35 to 60 frames after; 8 exceptions).
- All numbers are numbers.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from worldmodel.features.facts import Facts
from worldmodel.games.stages import STAGES

OVERSHOOT = 20.0
"""Melee units beyond a blast zone that a player who is lost, or above the top, may reach."""
LAST_DYING = 10
"""Actions up to this one are those of a player who loses a stock."""
RESET_FRAMES = 64
"""Frames after a lost stock in which percent may fall."""
_BOUNDLESS = 1e9


class Watch:
    """Judges B games frame by frame."""

    def __init__(self, before: Facts) -> None:
        """`before`: the true frames before the first one that is judged, as far as they are known."""
        device = before.numbers.device
        zones = [
            (s.left, s.right, s.bottom, s.top) if (s := STAGES.get(ident)) else (*[-_BOUNDLESS, _BOUNDLESS] * 2,)
            for ident in before.stages.tolist()
        ]
        self._zones = torch.tensor(zones, device=device)[:, :, None]
        self._last = before.cut(slice(-1, None))
        self._since_lost = torch.full_like(before.get("stocks")[:, 0], RESET_FRAMES)
        for time in range(1, before.frames):
            self._count(before.get("stocks")[:, time - 1], before.get("stocks")[:, time])

    def judge(self, frame: Facts) -> Bool[Tensor, " batch"]:
        """Whether each game's next frame (T = 1) may follow the one before."""
        stocks, percent = (frame.get(name)[:, 0] for name in ("stocks", "percent"))
        stocks_before, percent_before = (self._last.get(name)[:, 0] for name in ("stocks", "percent"))
        self._count(stocks_before, stocks)
        is_reset = self._since_lost < RESET_FRAMES
        is_good = (stocks <= stocks_before) & ((percent >= percent_before) | is_reset) & self._is_inside(frame)
        self._last = frame
        return is_good.all(-1) & frame.numbers.isfinite().flatten(1).all(-1)

    def _count(self, before: Tensor, now: Tensor) -> None:
        self._since_lost = torch.where(now < before, 0, self._since_lost + 1)

    def _is_inside(self, frame: Facts) -> Bool[Tensor, "batch player"]:
        x, y = (frame.get(axis)[:, 0] for axis in ("x", "y"))
        left, right, bottom, top = self._zones.unbind(1)
        margin = torch.where(frame.get("action")[:, 0] <= LAST_DYING, OVERSHOOT, 0.0)
        sides = (x >= left - margin) & (x <= right + margin) & (y >= bottom - margin)
        return sides & (y <= top + OVERSHOOT)
