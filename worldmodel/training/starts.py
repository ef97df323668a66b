"""Where rollouts begin: the same frames of the same games for every model, and in every data set that holds the games.

A game's starts are a function of its md5 and length alone (and the seed 42): whatever horizon is asked for, 300 frames
lie behind each, unless the game is too short for that. Games take turns: the first start of each, in the order of a
hash, then the second of each, and so on; so the first few starts are spread over all games.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from worldmodel.blocks.index import GameEntry
from worldmodel.errors import UserError
from worldmodel.features.plan import Samples

SEED = 42
LONGEST = 300
"""Frames behind a start where the game has them: the longest horizon."""
WARM_UP = 64
"""True frames before a start that every model sees, if the game has them; a sequence of training has as many."""


@dataclass(frozen=True, kw_only=True)
class Starts:
    """Chosen starts."""

    samples: Samples
    """Game, and the first frame that a model makes itself."""
    short: int
    """Games that are too short for one."""


def choose_starts(games: Sequence[GameEntry], number: int, horizon: int, context: int) -> Starts:
    """`number` starts with `horizon` true frames behind each and at least `context` before it.

    Raises:
        UserError: no game is long enough.
    """
    fitting = [n for n, game in enumerate(games) if game.frames >= context + horizon]
    if not fitting:
        longest = max((game.frames for game in games), default=0)
        raise UserError(
            f"none of {len(games)} validation games (the longest has {longest} frames) has {horizon} frames to roll "
            f"out behind {context} to see: use longer games, or shorter rollouts"
        )
    order = sorted(fitting, key=lambda n: _draw(games[n].md5, -1))
    chosen: list[tuple[int, int]] = []
    for turn in count():
        chosen += [(n, _choose_frame(games[n], turn, horizon, context)) for n in order[: number - len(chosen)]]
        if len(chosen) == number:
            break
    places, frames = np.array(chosen, dtype=np.int64).T
    return Starts(samples=Samples(places, frames), short=len(games) - len(fitting))


def _choose_frame(game: GameEntry, turn: int, horizon: int, context: int) -> int:
    last = game.frames - max(horizon, LONGEST)
    if last < max(WARM_UP, context):
        last = game.frames - horizon
    first = min(max(WARM_UP, context), last)
    return first + int(_draw(game.md5, turn) * (last - first + 1))


def _draw(md5: str, turn: int) -> float:
    """Evenly from 0 to 1."""
    digest = hashlib.md5(f"{SEED} {md5} {turn}".encode(), usedforsecurity=False).hexdigest()
    return int(digest[:12], 16) / 16**12
