"""From a run to clips: which frames of which validation games, and what its model makes of them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from worldmodel.errors import UserError
from worldmodel.features.feedback import Feedback
from worldmodel.features.plan import Samples
from worldmodel.film.clip import CONTROLS, DRAWN, POSITION, Clip, Columns, join
from worldmodel.games.writer import FIRST_FRAME_ID
from worldmodel.model.unroll import NoMemory, Unroller
from worldmodel.progress import Tell, say_nothing
from worldmodel.rollout.roller import Roller, Rollout, Start
from worldmodel.training.baselines import kinematic

SEED = 42


@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """How long clips are."""

    frames: int = 300
    """Frames that the model makes on its own."""
    lead: int = 30
    """Frames before them that are shown as they were."""


def choose_starts(roller: Roller, count: int, options: ClipOptions, seed: int = SEED) -> list[Start]:
    """Starts in different validation games as far as there are, spread over stages.

    They are a function of the seed and the games' names.

    Raises:
        UserError: no game is long enough for one frame behind its start.
    """
    rooms = [(n, game) for n, game in enumerate(roller.games) if game.frames > roller.earliest + 1]
    if not rooms or count < 1:
        raise UserError(
            f"found {len(rooms)} validation games with a frame to predict, asked for {count} rollouts: "
            "expected at least 1 of both"
        )
    ranked = sorted(rooms, key=lambda room: _draw(seed, room[1].md5))
    turns: dict[int, int] = {}
    order = []
    for place, game in ranked:
        turns[game.stage] = turns.get(game.stage, 0) + 1
        order.append((turns[game.stage], _draw(seed, game.md5), place))
    places = [place for _, _, place in sorted(order)]
    chosen = [(places[turn % len(places)], seed + turn // len(places)) for turn in range(count)]
    return [Start(game=place, frame=_choose_frame(roller, place, options, dice)) for place, dice in chosen]


def _choose_frame(roller: Roller, place: int, options: ClipOptions, seed: int) -> int:
    """A frame in which players can act, with the whole clip behind it, where the game is long enough for that."""
    game = roller.games[place]
    last = max(roller.earliest, game.frames - options.frames)
    first = min(last, max(roller.earliest, -FIRST_FRAME_ID + options.lead))
    return first + int(_draw(-seed, game.md5) * (last - first))


def _draw(seed: int, md5: str) -> float:
    """0 to 1 by a game's name: the same everywhere."""
    digest = hashlib.md5(f"{seed} {md5}".encode(), usedforsecurity=False).hexdigest()
    return int(digest[:12], 16) / 16**12


def find_start(roller: Roller, game: str, frame: int) -> Start:
    """The start in the validation game whose name begins so. UserError where there is none, or more than one."""
    found = [n for n, entry in enumerate(roller.games) if entry.md5.startswith(game)]
    if len(found) != 1:
        some = ", ".join(entry.md5[:8] for entry in roller.games[:12])
        raise UserError(
            f"{len(found) or 'no'} validation games begin with {game!r}, expected one; there are {len(roller.games)}: "
            f"{some}{', ...' if len(roller.games) > 12 else ''}"
        )
    return Start(game=found[0], frame=frame)


def make_clips(roller: Roller, starts: Sequence[Start], options: ClipOptions, tell: Tell = say_nothing) -> list[Clip]:
    """The clips of some starts; a game that ends before the clip's end ends the clip.

    Raises:
        UserError: a start lies beyond its game's end, or has too few frames before it, or no frame was asked for.
    """
    if options.frames < 1 or options.lead < 1:
        raise UserError(
            f"found {options.frames} frames of rollout and {options.lead} before them, expected at least 1 of both"
        )
    rollout = roller.roll(starts, options.frames, tell=tell)
    baseline = make_kinematic(roller).roll(starts, options.frames, tell=lambda _, *much: tell("baseline", *much))
    return [_make_clip(roller, rollout, baseline, place, options.lead) for place in range(len(starts))]


def make_kinematic(roller: Roller) -> Roller:
    """The same games, rolled by the kinematic baseline: players go on at their speeds, all else stays."""
    found, layout = copy.copy(roller), roller.run.config.encoding.layout
    predictor = NoMemory(partial(kinematic, layout=layout))
    found.unroller = Unroller(predictor, Feedback(layout, roller.device))
    return found


def _make_clip(roller: Roller, rollout: Rollout, baseline: Rollout, place: int, lead: int) -> Clip:
    start, length = rollout.starts[place], int(rollout.lengths[place])
    game = roller.games[start.game]
    lead = min(lead, start.frame)
    sample = Samples(np.array([start.game]), np.array([start.frame - lead]))
    before = {name: values[0] for name, values in roller.reader.read(roller.store, sample, lead).to_arrays().items()}
    true, predicted = (_cut(columns, place, length) for columns in (rollout.true, rollout.predicted))
    _check_finite(predicted, start, game.md5)
    return Clip(
        md5=game.md5, stage_id=game.stage, first=start.frame - lead, lead=lead,
        truth=join(before, true, (*DRAWN, *CONTROLS)), predicted=join(before, predicted),
        kinematic=join(before, _cut(baseline.predicted, place, length), POSITION),
        characters=tuple(int(character) for character in before["character"][0]), played_on=game.played_on,
    )  # fmt: skip


def _check_finite(columns: Columns, start: Start, md5: str) -> None:
    for name in POSITION:
        broken = np.flatnonzero(~np.isfinite(columns[name]).all(axis=1))
        if len(broken):
            raise UserError(
                f"the model predicts {name} that is no number, {broken[0] + 1} frames after frame {start.frame - 1} of "
                f"game {md5}: its weights are damaged or it diverged; choose another --checkpoint"
            )


def _cut(columns: Columns, place: int, length: int) -> Columns:
    return {name: values[place, :length] for name, values in columns.items()}
