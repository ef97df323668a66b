from __future__ import annotations

import hashlib
import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from worldmodel.errors import UserError
from worldmodel.games import toy
from worldmodel.games.game import check_column
from worldmodel.games.parsed import read_game
from worldmodel.games.toy import ToyGame, play_frame, play_game, write_toy_games
from worldmodel.games.toy_actions import ENTRY_FRAMES
from worldmodel.games.toy_fighter import ANIMATION_FRAMES, Fighter, Pad
from worldmodel.games.toy_inputs import Player
from worldmodel.games.toy_tables import CHARACTERS, STAGES, Action
from worldmodel.games.writer import leaf_types
from worldmodel.schema import FIELDS, LEGAL_STAGES, PLAYER_FIELDS, PLAYERS, code_table

GAMES = 6
AERIAL_LANDINGS = range(Action.NAIR_LANDING, Action.DAIR_LANDING + 1)


_play_once = cache(play_game)


def _games() -> tuple[ToyGame, ...]:
    return tuple(_play_once(0, index) for index in range(GAMES))


def _values(game: ToyGame, player: int, name: str) -> np.ndarray:
    return game.columns[(f"p{player}", *FIELDS[name].column)].astype(np.float64)


def _digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(f.relative_to(folder)).encode() + f.read_bytes() for f in files)).hexdigest()


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy, "_PATIENCE", (50, 60))  # short games
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_toy_games(tmp_path / name, 1, seed)
    assert _digest(tmp_path / "a") == _digest(tmp_path / "b") != _digest(tmp_path / "c")


def test_more_games_of_a_seed_begin_with_the_same_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy, "play_game", _play_once)
    for name, count in (("few", 1), ("grown", 1), ("grown", 3), ("many", 3)):
        write_toy_games(tmp_path / name, count, 0)
    assert {p.name for p in (tmp_path / "few/games").iterdir()} < {p.name for p in (tmp_path / "many/games").iterdir()}
    assert _digest(tmp_path / "grown") == _digest(tmp_path / "many")


def test_the_reader_finds_whole_games_that_lack_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy, "play_game", _play_once)
    for entry in write_toy_games(tmp_path, 3, 0):
        md5 = entry["slp_md5"]
        ids = (tmp_path / "frame_ids" / f"{md5}.npy").read_bytes()
        game = read_game((tmp_path / "games" / md5).read_bytes(), md5, entry, ids)
        assert (game.frames, game.stage, game.repeats) == (entry["num_frames"], entry["stage"], "none")
        assert not game.absent and not game.missing
        assert [p["character"] for p in entry["players"]] == [game.columns[p, "character"][0] for p in range(PLAYERS)]


def test_positions_follow_the_speeds_as_in_the_real_game() -> None:
    """The kinematic baseline (design, decision 9) must beat persistence clearly, as it does on real games."""
    still, kinematic = [], []
    for game in _games():
        for player in range(PLAYERS):
            v = {f.name: _values(game, player, f.name) for f in PLAYER_FIELDS}
            on_ground, moves = v["on_ground"] > 0, v["hitlag"] <= 1
            speeds = {
                "x": np.where(on_ground, v["speed_ground_x"], v["speed_air_x"]) + v["speed_attack_x"],
                "y": np.where(on_ground, 0, v["speed_y"]) + v["speed_attack_y"],
            }
            for axis, speed in speeds.items():
                step = np.diff(v[axis])
                still.append(np.abs(step))
                kinematic.append(np.abs(step - (speed * moves)[:-1]))
    assert np.concatenate(kinematic).mean() * 2 < np.concatenate(still).mean()


def test_nobody_moves_in_hitlag() -> None:
    for game in _games():
        for player in range(PLAYERS):
            frozen = _values(game, player, "hitlag")[:-1] > 1
            assert frozen.any()
            for axis in "xy":
                assert not np.diff(_values(game, player, axis))[frozen].any()


@pytest.mark.parametrize("field", PLAYER_FIELDS, ids=lambda field: field.name)
def test_every_field_varies_and_fits_its_storage(field) -> None:
    columns = [game.columns[(f"p{p}", *field.column)] for game in _games() for p in range(PLAYERS)]
    for player, column in enumerate(columns):
        check_column(field, player, column)
    assert len(np.unique(np.concatenate(columns))) > 1
    if field.code is not None:
        assert np.isin(np.concatenate(columns), code_table(field.code)).all()


def test_games_have_the_full_schema_and_differ_from_each_other() -> None:
    assert _games()[0].columns.keys() == leaf_types().keys()
    assert len({game.md5 for game in _games()}) == GAMES
    assert {game.stage for game in _games()} == {stage.ident for stage in STAGES} <= LEGAL_STAGES.keys()
    assert any(game.columns["items", "item_0", "exists"].any() for game in _games())


def test_every_game_ends_when_a_player_has_no_stock_left() -> None:
    for game in _games():
        stocks = [_values(game, player, "stocks") for player in range(PLAYERS)]
        assert min(s[-1] for s in stocks) == 0
        assert all((np.diff(s) <= 0).all() and s[0] == 4 for s in stocks)
        assert 1_000 < game.frames < 5_000


def test_a_landing_during_an_aerial_attack_is_judged_once_and_no_other_frame_is() -> None:
    judged = []
    for game in _games():
        for player in range(PLAYERS):
            action, verdict = _values(game, player, "action"), _values(game, player, "l_cancel")
            lands = np.isin(action[1:], AERIAL_LANDINGS) & (action[1:] != action[:-1])
            np.testing.assert_array_equal(verdict[1:] > 0, lands)
            judged.append(verdict[verdict > 0])
    assert set(np.concatenate(judged)) == {1, 2}


def _changes() -> tuple[np.ndarray, np.ndarray]:
    """Actions (two consecutive frames) where they differ, over all games and players."""
    actions = [_values(game, player, "action").astype(int) for game in _games() for player in range(PLAYERS)]
    pairs = np.concatenate([np.stack([action[:-1], action[1:]]) for action in actions], axis=1)
    before, after = pairs[:, pairs[0] != pairs[1]]
    assert 0.05 < len(before) / pairs.shape[1] < 0.25  # as busy as a real game (about .1), or a little more
    return before, after


def test_what_follows_an_action_is_not_known_from_the_action() -> None:
    """Knowing each action's most frequent successor must not be enough to be right about changes."""
    before, after = _changes()
    counts = np.zeros((max(Action) + 1, max(Action) + 1))
    np.add.at(counts, (before, after), 1)
    assert counts.max(axis=1).sum() / counts.sum() < 0.45


def test_most_attacks_on_the_ground_begin_in_the_frame_of_a_press() -> None:
    """What begins an action is seen in the controls of its first frame, not guessed from those before."""
    begun = pressed = 0
    for game in _games():
        for player in range(PLAYERS):
            action = _values(game, player, "action").astype(int)
            held = np.stack([_values(game, player, f"button_{name}") > 0 for name in "ABXYZLR"])
            presses = (held[:, 1:] & ~held[:, :-1]).any(axis=0)
            starts = (action[1:] != action[:-1]) & np.isin(action[1:], [Action.JAB, Action.UP_TILT, Action.GRAB])
            begun, pressed = begun + starts.sum(), pressed + (starts & presses).sum()
    assert begun > 100 and pressed / begun > 0.99


def test_every_action_that_ends_by_itself_shows_its_whole_animation() -> None:
    """How near the end is can be read from `state_age`, whatever the action's length (landings, cancelled or not)."""
    for game in _games():
        for player in range(PLAYERS):
            action, age = _values(game, player, "action").astype(int), _values(game, player, "state_age")
            ends = np.isin(action[:-1], [*AERIAL_LANDINGS, Action.LANDING_FALL_SPECIAL]) & (action[1:] != action[:-1])
            was_hit = _values(game, player, "hitlag")[1:] > 0
            last, rate = age[:-1][ends & ~was_hit], np.diff(age, prepend=0)[:-1][ends & ~was_hit]
            np.testing.assert_allclose(last + rate, ANIMATION_FRAMES, rtol=1e-5)


class _Tape(Player):
    """A player that does again what a game recorded."""

    def set_pads(self, pads: list[Pad]) -> None:
        self.pads = iter(pads)

    def hold_pad(self, me: Fighter, foe: Fighter) -> Pad:
        return next(self.pads)


def _pads(game: ToyGame, player: int) -> list[Pad]:
    sticks = {
        key: np.rint((_values(game, player, name) - 0.5) * 160).astype(int).tolist()
        for key, name in (("x", "main_stick_x"), ("y", "main_stick_y"), ("c_x", "c_stick_x"), ("c_y", "c_stick_y"))
    }
    sticks["trigger"] = np.rint(_values(game, player, "shoulder") * 140).astype(int).tolist()
    buttons = {
        f.column[-1]: game.columns[(f"p{player}", *f.column)].tolist()
        for f in PLAYER_FIELDS
        if f.name.startswith("button_")
    }
    return [Pad(**{key: values[t] for key, values in {**sticks, **buttons}.items()}) for t in range(game.frames)]


def test_inputs_alone_decide_a_game() -> None:
    """What a world model has to learn is a function: the recorded controls, played again, give the same frames."""
    game = _games()[1]
    bodies = {body.ident: body for body in CHARACTERS}
    stage = next(stage for stage in STAGES if stage.ident == game.stage)
    fighters, tapes = [], []
    for player, (ident, side) in enumerate(zip(game.characters, (-1, 1), strict=True)):
        fighters.append(Fighter(bodies[ident], stage, x=side * 38.0, facing=side < 0))
        fighters[-1].enter(Action.ENTRY, ENTRY_FRAMES)
        tapes.append(_Tape(random.Random(0), skill=0.0))
        tapes[-1].set_pads(_pads(game, player))
    shots: list = []
    for t in range(game.frames):
        play_frame(fighters, tapes, shots)
        for player, fighter in enumerate(fighters):
            for name in ("x", "y", "action", "percent", "hitlag", "stocks"):
                assert np.float32(getattr(fighter, name)) == np.float32(_values(game, player, name)[t]), (t, name)


def test_no_games_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected at least 1"):
        write_toy_games(tmp_path, 0)
