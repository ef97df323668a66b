"""One rollout beside what really happened, ready to be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from worldmodel.film.camera import Camera, View
from worldmodel.games.stages import STAGES, Platform, Stage, find_cloud
from worldmodel.games.writer import FIRST_FRAME_ID
from worldmodel.schema import PLAYERS, Kind, fields

DRAWN = (
    "x", "y", "percent", "stocks", "facing", "character", "action", "state_age", "shield_strength", "hitlag",
    "invulnerable", "on_ground", "ground",
)  # fmt: skip
"""Fields of a player that a picture shows; controls besides."""
POSITION = ("x", "y")
CONTROLS = tuple(field.name for field in fields(Kind.CONTROL))
CLOUD_STAGE = 8
PLACES = 2
"""Decimals of positions that a picture keeps."""

Columns = Mapping[str, np.ndarray]
"""Field name to values (T, P)."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """T frames of a game: L of them as they were, then the model on its own beside the truth."""

    md5: str
    """The game's name."""
    stage_id: int
    first: int
    """Row in the game of the clip's first frame."""
    lead: int
    """L: frames shown before the model begins; at least 1, the frame that it begins from."""
    truth: Columns
    """What happened: `DRAWN` and `CONTROLS`, (T, P)."""
    predicted: Columns
    """What the model says: `DRAWN`, (T, P); in the first L frames the truth."""
    kinematic: Columns
    """`POSITION`, (T, P), where players go on at the speeds of the last frame that the model was given."""
    characters: tuple[int, ...]
    """Character id of each player."""
    played_on: str = ""
    """See `GameEntry`."""

    @property
    def frames(self) -> int:
        """T."""
        return len(self.truth["x"])

    @property
    def start(self) -> int:
        """Row in the game of the last frame that the model was given."""
        return self.first + self.lead - 1

    @property
    def stage(self) -> Stage | None:
        """The stage's description; None: there is none, and the ground is neutral."""
        return STAGES.get(self.stage_id)

    @cached_property
    def error(self) -> np.ndarray:
        """(T,) mean distance of x and y to the truth over both players (position MAE), Melee units."""
        return self._measure(self.predicted)

    @cached_property
    def baseline(self) -> np.ndarray:
        """(T,) the same of the kinematic baseline."""
        return self._measure(self.kinematic)

    @cached_property
    def coherence(self) -> float:
        """Mean error over the first 20 frames of the rollout (fewer where it is shorter)."""
        found = self.error[self.lead : self.lead + 20]
        return float(found.mean()) if len(found) else 0.0

    @cached_property
    def views(self) -> list[View]:
        """Where the camera is in each frame."""
        camera = Camera(self.stage)
        both = (self.truth, self.predicted)
        return [
            camera.follow([(float(c["x"][t, p]), float(c["y"][t, p])) for c in both for p in range(PLAYERS)])
            for t in range(self.frames)
        ]

    def platforms(self, time: int, columns: Columns) -> list[Platform]:
        """The platforms at a frame; one that moves is where a player stands on it, as far as that is known."""
        return place_platforms(self.stage, self.first + time, columns, time)

    def _measure(self, columns: Columns) -> np.ndarray:
        gaps = np.abs(np.stack([columns[name] - self.truth[name] for name in POSITION]))
        found: np.ndarray = gaps.mean(axis=(0, 2))
        return found


def place_platforms(stage: Stage | None, row: int, columns: Columns, time: int) -> list[Platform]:
    """The platforms of a stage at a row of a game, whose players are `columns[name][time]`."""
    if stage is None:
        return []
    found = [_place(platform, columns, time) for platform in stage.platforms]
    return [*found, find_cloud(row + FIRST_FRAME_ID)] if stage.ident == CLOUD_STAGE else found


def _place(platform: Platform, columns: Columns, time: int) -> Platform:
    """A platform that moves is at the feet of who stands on it, else where it was last known to be."""
    if platform.ground is None:
        return platform
    standing = (columns["ground"] == platform.ground) & (columns["on_ground"] > 0)
    times, players = np.nonzero(standing)
    if not len(times):
        return platform
    nearest = int(np.abs(times - time).argmin())
    height = float(columns["y"][times[nearest], players[nearest]])
    return Platform(left=platform.left, right=platform.right, height=height, ground=platform.ground)


def join(before: Columns, after: Columns, names: Sequence[str] = DRAWN) -> Columns:
    """Two stretches of frames as one."""
    return {name: np.concatenate([before[name], after[name]]) for name in names}
