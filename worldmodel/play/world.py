"""What a session plays in: a model on its own, validation games to begin from, and the inputs recorded in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from worldmodel.errors import UserError
from worldmodel.features.facts import Facts
from worldmodel.features.plan import Samples
from worldmodel.rollout import roller
from worldmodel.rollout.loading import load_model, open_games
from worldmodel.rollout.roller import Roller
from worldmodel.storage import Location

Frame = Mapping[str, np.ndarray]
"""Field name to the values of both players (P,), in the game's units; controls are among them."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a session can begin."""

    md5: str
    frames: int
    stage: int
    characters: tuple[int, ...]
    """Character ids of the players in the first frame."""
    played_on: str = ""
    """See `GameEntry`."""


class World:
    """A run's model, rolled frame by frame."""

    def __init__(self, rolled: Roller, run: str) -> None:
        """`run`: its name, for people."""
        self.run, self._roller = run, rolled
        torch.set_num_threads(1)  # a step is too small to share: threads would wait for one another
        self._starts = [
            Start(
                md5=game.md5,
                frames=game.frames,
                stage=game.stage,
                characters=game.characters,
                played_on=game.played_on,
            )
            for game in rolled.games
        ]

    @property
    def starts(self) -> list[Start]:
        """The validation games."""
        return self._starts

    @property
    def earliest(self) -> int:
        """The first frame that a session can begin from."""
        return self._roller.earliest - 1

    def begin(self, game: int, frame: int) -> Frame:
        """Show the model a game up to and with a frame, and return that frame. UserError where it has none."""
        last = self._starts[game].frames - 2
        if not self.earliest <= frame <= last:
            raise UserError(
                f"found frame {frame}, expected {self.earliest} to {last}: game {self._starts[game].md5[:8]} has "
                f"{last + 2} frames, and one must follow"
            )
        return _last(self._roller.begin([roller.Start(game=game, frame=frame + 1)]))

    def step(self, controls: np.ndarray) -> Frame:
        """The next frame, under controls (P, control) as `pads.to_row` gives them."""
        return _last(self._roller.step(torch.from_numpy(controls)[None]))

    def recorded(self, game: int) -> np.ndarray:
        """(T, P, control) float32: the controls of a whole game."""
        sample = Samples(np.array([game]), np.array([0]))
        facts = self._roller.reader.read(self._roller.store, sample, self._starts[game].frames)
        controls: np.ndarray = facts.controls[0].cpu().numpy()
        return controls


def _last(facts: Facts) -> Frame:
    return {name: values[0, -1] for name, values in facts.to_arrays().items()}


def open_world(run: Location, checkpoint: Location, data: str = "") -> tuple[World, tuple[str, ...]]:
    """A checkpoint's model to play in, and what people should know of its games.

    Raises:
        UserError: no validation game is long enough to begin from, or the run's data are gone.
    """
    loaded = load_model(run, checkpoint)
    dataset, notes = open_games(run, loaded.config, data)
    found = Roller(loaded, dataset)
    if all(game.frames <= found.earliest for game in found.games):
        raise UserError(
            f"none of {len(found.games)} validation games has the {found.earliest + 1} frames to begin from"
        )
    return World(found, f"{run.parent.name} / {run.name}"), notes
