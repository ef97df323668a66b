"""What part of a stage is shown: the players with some room around them, followed smoothly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from worldmodel.games.stages import Stage

ASPECT = 1.4
"""Width over height of the picture."""
NARROWEST = 170.0
"""Melee units across, at least."""
ROOM = (30.0, 22.0, 32.0)
"""Melee units kept free beside, below and above the players' feet."""
EASE = 0.1
"""Share of the way to where the camera should be that it goes in a frame."""
SHRINK = 0.03
"""The same for coming nearer: a picture that breathes is hard to watch."""
EDGE = 10.0
"""Melee units that a player is within the picture's border, always."""
BEYOND = 12.0
"""Melee units beyond the blast zone that the camera still follows."""

View = tuple[float, float, float]
"""Centre x, centre y and width, in Melee units."""


@dataclass
class Camera:
    """A camera that follows players over frames."""

    stage: Stage | None
    """Whose blast zone is the end of what is followed; None: a stage that is not described."""
    view: View | None = None
    """Where it is; None: nowhere yet, and it begins where it should be."""

    def follow(self, points: Iterable[tuple[float, float]]) -> View:
        """Move on by a frame in which players stand at `points` (x, y); returns where it is then."""
        clipped = [self._clip(x, y) for x, y in points]
        wish = self._aim(clipped)
        x, y, width = self.view or wish
        x, y = x + EASE * (wish[0] - x), y + EASE * (wish[1] - y)
        width += (EASE if wish[2] > width else SHRINK) * (wish[2] - width)
        reach = max(max(abs(px - x) + EDGE, (abs(py - y) + EDGE) * ASPECT) for px, py in clipped)
        self.view = (x, y, max(width, 2 * reach))
        return self.view

    def _clip(self, x: float, y: float) -> tuple[float, float]:
        if self.stage is None:
            return x, y
        x = min(max(x, self.stage.left - BEYOND), self.stage.right + BEYOND)
        return x, min(max(y, self.stage.bottom - BEYOND), self.stage.top + BEYOND)

    def _aim(self, points: list[tuple[float, float]]) -> View:
        side, below, above = ROOM
        left, right = min(x for x, _ in points) - side, max(x for x, _ in points) + side
        bottom, top = min(y for _, y in points) - below, max(y for _, y in points) + above
        width = max(right - left, (top - bottom) * ASPECT, NARROWEST)
        return (left + right) / 2, (bottom + top) / 2, width
