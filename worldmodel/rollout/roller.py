"""Rolling a run's model: from true frames of a game on it feeds itself, under true or any other controls.

    run = load_model(location, checkpoint)                      # worldmodel/rollout/loading.py
    dataset, notes = open_games(location, run.config, data)
    roller = Roller(run, dataset)                               # its validation games: roller.games
    start = Start(game=0, frame=1200)                           # game by its place there; frame: the first rolled one

Batched, with true controls:

    rollout = roller.roll([start, ...], frames=300)             # all starts side by side
    rollout.predicted["x"]       # (start, time, player) arrays of every field, in the game's own values and types
    rollout.true["x"]            # the same frames as they were played
    rollout.lengths              # (start,) true frames there were; behind them the game's last frame is repeated

Frame by frame, under any controls (both players', (start, player, control) in 0..1, order `roller.controls`):

    frame = roller.begin([start, ...])      # the last true frame before each start, as `Facts` with T = 1
    frame = roller.step(controls)           # the next one; again and again
    frame.to_arrays()["action"]             # (start, 1, player), stored types
    frame.get("x")                          # the same as a tensor on the device
    roller.true_controls(offset)            # what was played `offset` frames after each start (0: the first rolled one)

Values are those that a game stores (`schema.py`): positions in Melee units, whole percents and stocks, action ids,
flags, `ground` 65535 in the air. Cost of a step does not depend on how many came before it. A model trained on windows
(also every MLP) sees its last K frames, own ones as well; one trained on sequences carries its state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldmodel.blocks.index import GameEntry
from worldmodel.errors import UserError
from worldmodel.features.facts import EVERYTHING, FactReader, Facts, join_frames
from worldmodel.features.feedback import Choice, Feedback
from worldmodel.features.plan import Samples
from worldmodel.games.leaves import MAX_GAME_FRAMES
from worldmodel.model.unroll import Unroller, make_memory
from worldmodel.progress import Tell, say_nothing
from worldmodel.rollout.loading import LoadedRun
from worldmodel.training.data import Dataset
from worldmodel.training.feed import Worker, measure_room, open_store
from worldmodel.training.starts import WARM_UP


@dataclass(frozen=True)
class Start:
    """Where a rollout begins."""

    game: int
    """Place in `Roller.games`."""
    frame: int
    """The first frame that the model makes; those before it are true."""


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """What a model made of some starts, and what was played. Arrays are (start, time, player) in stored types."""

    starts: tuple[Start, ...]
    predicted: dict[str, np.ndarray]
    """Field name to values; controls are those given."""
    true: dict[str, np.ndarray]
    lengths: np.ndarray
    """(start,) frames of `true` that the game has."""
    stages: np.ndarray
    """(start,) stage ids."""
    md5: tuple[str, ...]
    """Names of the starts' games."""


class Roller:
    """Rolls the model of a run from frames of a data set's validation games."""

    def __init__(
        self,
        run: LoadedRun,
        dataset: Dataset,
        *,
        games: Sequence[GameEntry] | None = None,
        choice: Choice | None = None,
    ) -> None:
        """`games`: None takes the validation games. `choice`: how classes are chosen; None: the most likely ones."""
        self.run, self.device = run, run.device
        self.games = list(dataset.split.validation if games is None else games)
        worker = Worker(device=run.device, resident_bytes=measure_room(run.device))
        self.store = open_store(dataset, self.games, run.config, worker)
        self.reader = FactReader(run.config.encoding, run.device, run.untrained)
        memory = make_memory(run.model, run.config.training.mode)
        self.unroller = Unroller(memory, Feedback(run.config.encoding.layout, run.device, choice))
        self._starts: tuple[Start, ...] = ()

    @property
    def controls(self) -> tuple[str, ...]:
        """Names of the controls, in the order of their axis."""
        return tuple(field.name for field in EVERYTHING.controls)

    @property
    def earliest(self) -> int:
        """The first frame that a rollout can start at."""
        return self.unroller.context

    def find_start(self, game: str, frame: int) -> Start:
        """The start in the game whose name begins so ("": the first). UserError where none does, or several do."""
        found = [n for n, entry in enumerate(self.games) if entry.md5.startswith(game)]
        if not found or (game and len(found) > 1):
            some = ", ".join(entry.md5[:8] for entry in self.games[:8]) + (", ..." if len(self.games) > 8 else "")
            raise UserError(f"{len(found)} validation games begin with {game!r}, expected one of {some}")
        return Start(game=found[0], frame=frame)

    @torch.inference_mode()
    def begin(self, starts: Sequence[Start], warm_up: int = WARM_UP) -> Facts:
        """See the true frames before each start, at most `warm_up` of them; returns the last one.

        All starts see as many frames as the one that has fewest behind it.

        Raises:
            UserError: a start lies beyond its game's end, or has too few frames before it.
        """
        self._check(starts)
        seen = max(self.earliest, min(warm_up, min(start.frame for start in starts)))
        self._starts = tuple(starts)
        facts = self._read(-seen, seen)
        self.unroller.begin(facts)
        return facts.cut(slice(-1, None))

    @torch.inference_mode()
    def step(self, controls: Tensor) -> Facts:
        """The next frame under these controls (start, player, control)."""
        return self.unroller.step(controls.to(self.device))

    def true_controls(self, offset: int) -> Tensor:
        """(start, player, control) what was played so many frames after each start; a game's last, beyond its end."""
        return self._read(offset, 1).controls[:, 0]

    def true_frames(self, frames: int) -> Facts:
        """The frames from each start on, as they were played; beyond a game's end its last one is repeated."""
        return self._read(0, frames)

    def roll(self, starts: Sequence[Start], frames: int, warm_up: int = WARM_UP, tell: Tell = say_nothing) -> Rollout:
        """So many frames from each start under the controls that were played; behind a game's end, its last ones.

        `tell`: progress callback per frame; an exception that it raises ends the rollout.

        Raises:
            UserError: no frames are asked for, or more than a game can have, or as `begin`.
        """
        if not 1 <= frames <= MAX_GAME_FRAMES:
            raise UserError(f"found {frames} frames to roll out, expected at least 1 and at most {MAX_GAME_FRAMES}")
        self.begin(starts, warm_up)
        true = self.true_frames(frames)
        parts = []
        for time in range(frames):
            parts.append(self.step(true.controls[:, time]))
            tell("rollout", time + 1, frames)
        predicted = join_frames(parts)
        return Rollout(
            starts=tuple(starts), predicted=predicted.to_arrays(), true=true.to_arrays(),
            lengths=np.minimum(self._lengths() - [start.frame for start in starts], frames),
            stages=true.stages.cpu().numpy(), md5=tuple(self.games[start.game].md5 for start in starts),
        )  # fmt: skip

    def _check(self, starts: Sequence[Start]) -> None:
        for start in starts:
            if not 0 <= start.game < len(self.games):
                raise UserError(f"there is no validation game {start.game}: there are 0 to {len(self.games) - 1}")
            game = self.games[start.game]
            if not self.earliest <= start.frame < game.frames:
                raise UserError(
                    f"a rollout of game {game.md5} cannot start at frame {start.frame}: the game has frames 0 to "
                    f"{game.frames - 1}, and the model needs {self.earliest} frames before its first own one"
                )

    def _lengths(self) -> np.ndarray:
        return np.array([self.games[start.game].frames for start in self._starts])

    def _read(self, offset: int, frames: int) -> Facts:
        games = np.array([start.game for start in self._starts], dtype=np.int64)
        first = np.array([start.frame + offset for start in self._starts], dtype=np.int64)
        return self.reader.read(self.store, Samples(games, np.minimum(first, self._lengths() - 1)), frames)
