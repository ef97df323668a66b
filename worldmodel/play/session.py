"""One session of play: who holds the controls, what has happened since the start, and how it is kept."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from worldmodel.errors import UserError
from worldmodel.games.writer import (
    ColumnPath,
    Entry,
    assemble_frames,
    leaf_types,
    open_output,
    read_entries,
    write_meta,
    write_parsed,
)
from worldmodel.play.pads import CONTROLS, Held, read_pad, to_row
from worldmodel.play.world import Frame, Start, World
from worldmodel.schema import FRAMES_PER_SECOND, PLAYER_FIELDS, PLAYERS, STAGE

NO_CONTEST = 7
"""`game_end_method` of a game that did not end: a session ends when a person wants it to."""
LEAST_FRAMES = 2
LONGEST = 8 * 60 * FRAMES_PER_SECOND
"""Frames of a session: as long as a tournament's game can last."""
FIRST_FRAME = 300
"""Row that a session begins from, unless another is asked for."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Where to begin, and who plays player 1."""

    game: int
    """Index of a validation game."""
    frame: int
    """Row of the last frame that is as it was."""
    rival: int | None = None
    """Index of the validation game whose recorded inputs player 1 has; None: a second person."""

    @classmethod
    def first(cls, world: World) -> Choice:
        """The first game that is long enough, a few seconds after players can act."""
        game = next(n for n, start in enumerate(world.starts) if start.frames > world.earliest + 1)
        frame = max(world.earliest, min(FIRST_FRAME, world.starts[game].frames - 2))
        return cls(game=game, frame=frame, rival=game)


@dataclass
class Session:
    """What is being played."""

    world: World
    choice: Choice
    frames: list[Frame] = field(default_factory=list)
    """The frame that it began from, and all since."""
    _inputs: np.ndarray = field(init=False)
    """(T, control) player 1's recorded inputs, from the game's first frame."""

    def __post_init__(self) -> None:
        self.restart(self.choice)

    def restart(self, choice: Choice) -> None:
        """Begin again, there or elsewhere. UserError where that cannot be; the session is then as it was."""
        starts = self.world.starts
        for game in (choice.game, choice.rival):
            if game is not None and not 0 <= game < len(starts):
                raise UserError(f"there is no validation game {game}: there are 0 to {len(starts) - 1}")
        first = self.world.begin(choice.game, choice.frame)
        self.choice, self.frames = choice, [first]
        rival = choice.rival
        self._inputs = np.zeros((0, len(CONTROLS))) if rival is None else self.world.recorded(rival)[:, 1]

    @property
    def start(self) -> Start:
        """The game that it began from."""
        return self.world.starts[self.choice.game]

    @property
    def row(self) -> int:
        """The row of the game that the present frame stands for."""
        return self.choice.frame + len(self.frames) - 1

    @property
    def recording_left(self) -> int:
        """Frames for which player 1's recorded inputs last."""
        return max(0, len(self._inputs) - 1 - self.row)

    def advance(self, held: tuple[Held, Held]) -> Frame:
        """One frame on, under what the persons hold; the second counts where player 1 is a person.

        Raises:
            UserError: the session is as long as one can be, or the model says what is no number.
        """
        if len(self.frames) > LONGEST:
            raise UserError("eight minutes are played: save them, and begin again")
        rows = to_row([read_pad(one) for one in held])
        if self.choice.rival is not None and self.recording_left:
            rows[1] = self._inputs[self.row + 1]
        frame = self.world.step(rows)
        if not np.isfinite([frame["x"], frame["y"]]).all():
            raise UserError("the model predicts positions that are no numbers: begin again, or with another checkpoint")
        self.frames.append(frame)
        return frame

    def save(self, out: Path) -> Path:
        """Write what was played into the parsed games of a folder, and return its file.

        Raises:
            UserError: nothing was played yet, or the folder cannot be written.
        """
        if len(self.frames) < LEAST_FRAMES:
            raise UserError("nothing to save: no frame was played yet")
        open_output(out)
        columns = collect_columns(self.frames, self.start.stage)
        entry = self._describe(columns)
        entries = read_entries(out)
        entries[entry.slp_md5] = write_parsed(out, assemble_frames(columns), entry)
        write_meta(out, entries.values())
        return out / "games" / entry.slp_md5

    def _describe(self, columns: dict[ColumnPath, np.ndarray]) -> Entry:
        digest = hashlib.md5(usedforsecurity=False)
        for values in columns.values():
            digest.update(np.ascontiguousarray(values).tobytes())
        source = f"played in {self.world.run} from {self.start.md5} at frame {self.choice.frame}"
        characters = self.frames[0]["character"]
        return Entry(
            name=f"played-{time.strftime('%Y%m%d-%H%M%S')}", slp_md5=digest.hexdigest(), slp_size=0,
            lastFrame=len(self.frames), stage=self.start.stage, game_end_method=NO_CONTEST, source=source,
            players=tuple({"port": port, "character": int(characters[port])} for port in range(PLAYERS)),
            slippi_version="", start_stocks=int(max(self.frames[0]["stocks"])), played_on="world model",
            is_training=False, not_training_reason="played inside a model",
        )  # fmt: skip


def collect_columns(frames: list[Frame], stage: int) -> dict[ColumnPath, np.ndarray]:
    """The columns of the parsed layout that frames fill; what a model does not know of has no column."""
    types = {path: np.dtype(kind.to_pandas_dtype()) for path, kind in leaf_types().items()}
    path: ColumnPath = (STAGE.name,)
    columns = {path: np.full(len(frames), stage, dtype=types[path])}
    for player in range(PLAYERS):
        for known in (one for one in PLAYER_FIELDS if one.name in frames[0]):
            path = (f"p{player}", *known.column)
            values = np.array([frame[known.name][player] for frame in frames])
            columns[path] = _fit(values, types[path], known.name)
    return columns


def _fit(values: np.ndarray, kind: np.dtype, name: str) -> np.ndarray:
    """Values in the layout's type: whole numbers are rounded and kept within their type."""
    if not np.isfinite(values).all():
        raise UserError(f"the model predicted {name} that is no number: the session cannot be saved")
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        values = np.clip(np.round(values), limits.min, limits.max)
    return values.astype(kind)
