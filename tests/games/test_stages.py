"""The stages as they are published, and as players stand on them in real games."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from worldmodel.games.game import Game
from worldmodel.games.parsed import read_game
from worldmodel.games.stages import CLOUD_PERIOD, STAGES, find_cloud
from worldmodel.games.toy_tables import STAGES as TOY_STAGES
from worldmodel.games.writer import FIRST_FRAME_ID
from worldmodel.schema import LEGAL_STAGES, PLAYERS

GAMES_PER_STAGE = 1
YOSHIS_STORY = 8
STADIUM = 3


@pytest.fixture(scope="module")
def real_games(shared_folder: Path) -> list[Game]:
    """A real game on each stage."""
    folder, found = shared_folder / "data" / "games", defaultdict(list)
    for entry in json.loads((folder / "meta.json").read_text()):
        if len(found[entry["stage"]]) < GAMES_PER_STAGE:
            md5 = entry["slp_md5"]
            ids = (folder / "frame_ids" / f"{md5}.npy").read_bytes()
            game = read_game((folder / "games" / md5).read_bytes(), md5, entry, ids)
            found[game.stage].append(game)
    return [game for games in found.values() for game in games]


def read_standing(game: Game) -> np.ndarray:
    """(N, 3) row, x and y of every frame in which a player waits on the ground (action 14)."""
    rows = []
    for player in range(PLAYERS):
        action, x, y = (game.planes.column(player, name) for name in ("action", "x", "y"))
        times = np.flatnonzero((action == 14) & (game.planes.column(player, "on_ground") > 0))
        rows.append(np.stack([times, x[times], y[times]], axis=1))
    return np.concatenate(rows)


def test_every_tournament_stage_is_described_within_its_blast_zone() -> None:
    assert STAGES.keys() == LEGAL_STAGES.keys()
    for stage in STAGES.values():
        ends = [*stage.floor, *((x, p.height) for p in stage.platforms for x in (p.left, p.right))]
        assert all(stage.left < x < stage.right and stage.bottom < y < stage.top for x, y in ends)
        assert all(before[0] < after[0] for before, after in pairwise(stage.floor))


def test_toy_games_stand_on_the_same_ground() -> None:
    for toy in TOY_STAGES:
        stage = STAGES[toy.ident]
        assert (toy.left, toy.right, toy.bottom, toy.top) == (stage.left, stage.right, stage.bottom, stage.top)
        assert [(s.left, s.right, s.height) for s in toy.surfaces if s.is_platform] == [
            (p.left, p.right, p.height) for p in stage.platforms
        ]


def test_the_cloud_comes_back_and_never_jumps() -> None:
    path = [find_cloud(frame) for frame in range(CLOUD_PERIOD + 1)]
    steps = [max(abs(b.left - a.left), abs(b.height - a.height)) for a, b in pairwise(path)]
    assert max(steps) < 0.8
    assert path[0].left == pytest.approx(path[-1].left, abs=0.5)


def test_players_of_real_games_stand_on_published_ground(real_games: list[Game]) -> None:
    for game in real_games:
        if game.stage == STADIUM:
            continue  # its transformations are not described
        stage = STAGES[game.stage]
        xs, ys = np.array(stage.floor).T
        moving = [p for p in stage.platforms if p.ground is not None]
        still = [p for p in stage.platforms if p.ground is None]
        misses = 0
        for row, x, y in (standing := read_standing(game)):
            clouds = [find_cloud(int(row) + FIRST_FRAME_ID)] if game.stage == YOSHIS_STORY else []
            on_floor = xs[0] - 0.2 <= x <= xs[-1] + 0.2 and abs(np.interp(x, xs, ys) - y) < 0.1
            on_platform = any(p.left - 0.2 <= x <= p.right + 0.2 and abs(p.height - y) < 0.1 for p in still)
            on_moving = any(p.left - 0.2 <= x <= p.right + 0.2 for p in moving) and y > 0
            on_cloud = any(c.left - 1 <= x <= c.right + 1 and abs(c.height - y) < 0.5 for c in clouds)
            misses += not (on_floor or on_platform or on_moving or on_cloud)
        assert len(standing) > 20
        assert misses <= 0.01 * len(standing)
