"""What the page is told: of a start, and of every frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from worldmodel.film.camera import Camera
from worldmodel.film.clip import place_platforms
from worldmodel.film.look import find_pose
from worldmodel.film.page import describe_ground, describe_platform, describe_stage
from worldmodel.games.names import name_action, name_character, name_stage
from worldmodel.games.stages import STAGES
from worldmodel.play.pads import CONTROLS
from worldmodel.play.session import Session
from worldmodel.play.world import Frame, Start
from worldmodel.schema import PLAYERS

PLACES = 2
SHOWN = {
    "x": "x", "y": "y", "percent": "percent", "stocks": "stocks", "facing": "facing", "age": "state_age",
    "shield": "shield_strength", "hitlag": "hitlag", "invulnerable": "invulnerable",
}  # fmt: skip
"""Name in `scene.js` to field."""


@dataclass
class Show:
    """Describes the frames of a session, one after another."""

    session: Session
    camera: Camera

    @classmethod
    def of(cls, session: Session) -> Show:
        """For a session that begins now."""
        return cls(session, Camera(STAGES.get(session.start.stage)))

    def describe_start(self) -> dict[str, Any]:
        """What stays the same until the next start."""
        start, choice = self.session.start, self.session.choice
        return {
            "type": "start",
            "stage": describe_stage(STAGES.get(start.stage)),
            "note": describe_ground(start.stage, STAGES.get(start.stage), start.played_on),
            "characters": [name_character(character) for character in start.characters],
            "game": choice.game,
            "frame": choice.frame,
            "rival": choice.rival,
        }

    def describe_frame(self) -> dict[str, Any]:
        """The session's newest frame."""
        frame, start = self.session.frames[-1], self.session.start
        points = [(float(frame["x"][p]), float(frame["y"][p])) for p in range(PLAYERS)]
        platforms = place_platforms(
            STAGES.get(start.stage), self.session.row, {name: values[None] for name, values in frame.items()}, 0
        )
        return {
            "type": "frame",
            "played": len(self.session.frames) - 1,
            "left": self.session.recording_left,
            "players": [describe_player(frame, player) for player in range(PLAYERS)],
            "pads": [{f.name: float(frame[f.name][p]) for f in CONTROLS} for p in range(PLAYERS)],
            "view": [round(value, PLACES) for value in self.camera.follow(points)],
            "platforms": [describe_platform(platform) for platform in platforms],
        }


def describe_player(frame: Frame, player: int) -> dict[str, Any]:
    """A player for `scene.js`."""
    action, character = int(frame["action"][player]), int(frame["character"][player])
    values = {name: round(float(np.nan_to_num(frame[field][player])), PLACES) for name, field in SHOWN.items()}
    return {**values, "action": name_action(action, character), "pose": find_pose(action)}


def describe_game(start: Start) -> dict[str, Any]:
    """A validation game, to choose from."""
    players = " / ".join(name_character(character) for character in start.characters)
    return {"name": f"{start.md5[:8]}  {players}, {name_stage(start.stage)}", "frames": start.frames}
