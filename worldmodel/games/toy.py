"""Toy games: a small deterministic two-player physics game with the full schema, for a machine without real data.

It has Melee's ids and the relations that a world model learns (speeds move positions, inputs begin actions, hits lead
to hitlag, knockback and hitstun), not Melee's feel: actions are short, an attack can be left for another as soon as its
hitbox is gone, and most actions begin in the frame of a press, so that minutes of training show. Only +, -, *, / and
square roots are used, so that every machine computes the same bits.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.errors import UserError
from worldmodel.games.toy_actions import DEAD_FRAMES, DEADS, ENTRY_FRAMES, decide
from worldmodel.games.toy_combat import Shot, count_losses, fire_shots, resolve_hits, show_state
from worldmodel.games.toy_fighter import START_STOCKS, Fighter
from worldmodel.games.toy_inputs import Player
from worldmodel.games.toy_physics import accelerate, move
from worldmodel.games.toy_tables import CHARACTERS, STAGES, Action
from worldmodel.games.writer import (
    FIRST_FRAME_ID,
    ColumnPath,
    Entry,
    assemble_frames,
    leaf_types,
    open_output,
    read_entries,
    write_meta,
    write_parsed,
)
from worldmodel.schema import PLAYER_FIELDS, PLAYERS, SPARSE

_PATIENCE = (300, 600)
"""Frames (least, most) without a stock lost, after which the player who has more damage walks off the stage: every
game ends, and both players lose stocks."""
_GAME_END = 2
_ITEMS = next(group for group in SPARSE if group.name == "items")
_row_of = attrgetter(*(field.name for field in PLAYER_FIELDS))


@dataclass(frozen=True, kw_only=True)
class ToyGame:
    """A played toy game of T frames."""

    columns: dict[ColumnPath, np.ndarray]
    """Path in the parsed layout to values (T,), in the layout's types."""
    characters: tuple[int, int]
    """Character ids of player 0 and 1."""
    stage: int

    @property
    def frames(self) -> int:
        """T."""
        return len(next(iter(self.columns.values())))

    @property
    def md5(self) -> str:
        """md5 (32 hex digits) of the values, in the layout's order: the same game has the same name everywhere."""
        digest = hashlib.md5(usedforsecurity=False)
        for path in leaf_types():
            digest.update(np.ascontiguousarray(self.columns[path]).tobytes())
        return digest.hexdigest()


def write_toy_games(out: Path, count: int, seed: int = 0, longest: int | None = None) -> list[dict[str, Any]]:
    """Play `count` games and write them in the parsed layout under `out`. Returns the entries of its `meta.json`.

    A game is a function of (seed, its number): more games under one seed begin with the same ones. Games that `out`
    holds already stay. `longest`: frames after which a game is broken off; None: each is played to its end.
    """
    if count < 1:
        raise UserError(f"{count} toy games asked for, expected at least 1")
    open_output(out)
    entries = read_entries(out)
    for index in range(count):
        game = play_game(seed, index, longest)
        frame_ids = np.arange(FIRST_FRAME_ID, FIRST_FRAME_ID + game.frames, dtype=np.int32)
        entry = _describe(game, f"toy-{seed}-{index}")
        entries[game.md5] = write_parsed(out, assemble_frames(game.columns), entry, frame_ids)
    write_meta(out, entries.values())
    return list(entries.values())


def _describe(game: ToyGame, name: str) -> Entry:
    return Entry(
        name=name, slp_md5=game.md5, slp_size=0, lastFrame=game.frames,
        players=tuple({"port": port, "character": game.characters[port]} for port in range(PLAYERS)),
        stage=game.stage, game_end_method=_GAME_END, source="toy", slippi_version="3.18.0",
        start_stocks=START_STOCKS, played_on="toy",
    )  # fmt: skip


def play_game(seed: int, index: int, longest: int | None = None) -> ToyGame:
    """Game number `index` of a seed, or its first `longest` frames."""
    dice = random.Random(seed * 1_000_003 + index)
    stage = STAGES[index % len(STAGES)]
    bodies = [CHARACTERS[int(dice.random() * len(CHARACTERS))] for _ in range(PLAYERS)]
    fighters = [
        Fighter(body, stage, x=side * 38.0, facing=side < 0) for body, side in zip(bodies, (-1, 1), strict=True)
    ]
    players = [Player(dice, skill=0.3 + 0.5 * dice.random()) for _ in range(PLAYERS)]
    rows: list[list[tuple[Any, ...]]] = [[] for _ in range(PLAYERS)]
    items: list[tuple[int, int, Shot]] = []
    shots: list[Shot] = []
    patience = _PATIENCE[0] + int(dice.random() * (_PATIENCE[1] - _PATIENCE[0]))
    calm = 0
    for f in fighters:
        f.enter(Action.ENTRY, ENTRY_FRAMES)
    while not is_over(fighters) and (longest is None or len(rows[0]) < longest):
        play_frame(fighters, players, shots)
        _record(fighters, shots, rows, items)
        calm = 0 if any(f.action in DEADS for f in fighters) else calm + 1
        for f, player in zip(fighters, players, strict=True):
            player.has_given_up = calm >= patience and f.percent == max(g.percent for g in fighters)
    return ToyGame(
        columns=_columns(rows, items, stage.ident),
        characters=(bodies[0].ident, bodies[1].ident),
        stage=stage.ident,
    )


def is_over(fighters: Iterable[Fighter]) -> bool:
    """Whether a player has lost the last stock and the moment after it has passed."""
    return any(not f.stocks and f.action in DEADS and f.elapsed >= DEAD_FRAMES // 2 for f in fighters)


def play_frame(fighters: list[Fighter], players: list[Player], shots: list[Shot]) -> None:
    """One frame: pads, actions, speeds, movement, hits, losses."""
    first, second = fighters
    pads = (players[0].hold_pad(first, second), players[1].hold_pad(second, first))
    for f, pad in zip(fighters, pads, strict=True):
        f.read_pad(pad)
        f.l_cancel = 0
        f.hitlag = max(f.hitlag - 1, 0)
        if f.hitlag:
            continue
        f.elapsed += 1
        f.state_age += f.rate
        f.hitstun_remaining = max(f.hitstun_remaining - 1, 0)
        decide(f)
        if f.action not in DEADS:
            accelerate(f)
            move(f)
    fire_shots(fighters, shots)
    resolve_hits(fighters, shots)
    for f in fighters:
        count_losses(f)
        show_state(f)


def _record(
    fighters: list[Fighter],
    shots: list[Shot],
    rows: list[list[tuple[Any, ...]]],
    items: list[tuple[int, int, Shot]],
) -> None:
    frame = len(rows[0])
    for slot, shot in enumerate(shots[: len(_ITEMS.paths)]):
        items.append((frame, slot, Shot(shot.owner, shot.type, shot.x, shot.y, shot.speed, shot.life)))
    for f, kept in zip(fighters, rows, strict=True):
        kept.append(_row_of(f))


def _columns(
    rows: list[list[tuple[Any, ...]]], items: list[tuple[int, int, Shot]], stage: int
) -> dict[ColumnPath, np.ndarray]:
    frames = len(rows[0])
    types = {path: np.dtype(kind.to_pandas_dtype()) for path, kind in leaf_types().items()}
    columns = {path: np.zeros(frames, dtype=kind) for path, kind in types.items()}
    columns["stage",][:] = stage
    for player, kept in enumerate(rows):
        table = np.array(kept, dtype=np.float64)
        for number, field in enumerate(PLAYER_FIELDS):
            path = (f"p{player}", *field.column)
            columns[path] = table[:, number].astype(types[path])
    for frame, slot, shot in items:
        values = {"exists": True, "type": shot.type, "state": shot.life > 40, "x": shot.x, "y": shot.y}
        for name, value in values.items():
            columns[(*_ITEMS.paths[slot], name)][frame] = value
    return columns
