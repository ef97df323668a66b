"""A session: the model's own frames under what is held, recorded inputs for the other, and a game file of it all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.film.rooms import STEP, open_roller
from tests.games_on_disk import read_columns
from worldmodel.errors import UserError
from worldmodel.games.parsed import read_game
from worldmodel.games.source import list_source
from worldmodel.play import session as session_room
from worldmodel.play.pads import CONTROLS, Held
from worldmodel.play.session import Choice, Session
from worldmodel.play.world import Frame, World, open_world
from worldmodel.rollout.roller import Start
from worldmodel.schema import PLAYER_FIELDS, PLAYERS
from worldmodel.storage import Location

RIGHT = Held(axes=(1.0, 0.0, 0.0, 0.0))
JUMP = Held(down=frozenset({"button_X"}))


@pytest.fixture(scope="module")
def world(run: Location) -> World:
    return open_world(run, run / STEP)[0]


def play(session: Session, held: Sequence[tuple[Held, Held]]) -> list[Frame]:
    return [session.advance(pair) for pair in held]


def are_equal(first: Sequence[Frame], second: Sequence[Frame]) -> bool:
    return all(np.array_equal(a[name], b[name]) for a, b in zip(first, second, strict=True) for name in a)


def test_the_frame_that_a_session_begins_from_is_the_games_own(world: World, run: Location) -> None:
    session = Session(world, Choice(game=0, frame=20))
    path = run.parent.parent / "games" / "games" / world.starts[0].md5
    columns = read_columns(path.read_bytes())
    for name in ("x", "y", "percent", "action"):
        true = [columns[f"p{player}", name][20] for player in range(PLAYERS)]
        assert np.allclose(session.frames[0][name], true)


def test_with_the_recorded_inputs_of_both_it_is_the_rollout(world: World, run: Location) -> None:
    world.begin(0, 20)
    recorded = world.recorded(0)
    made = [world.step(recorded[row]) for row in range(21, 29)]
    rolled = open_roller(run).roll([Start(game=0, frame=21)], 8).predicted
    for name in ("x", "y", "percent", "action", "stocks"):
        assert np.array_equal(np.stack([frame[name] for frame in made]), rolled[name][0])


def test_what_is_held_is_in_the_frame_and_the_other_has_the_recorded_inputs(world: World) -> None:
    session = Session(world, Choice(game=0, frame=20, rival=1))
    frame = play(session, [(RIGHT, JUMP)])[0]
    recorded = world.recorded(1)[21, 1]
    assert frame["main_stick_x"][0] == 1.0
    assert [float(frame[field.name][1]) for field in CONTROLS] == pytest.approx(recorded.tolist())


def test_a_second_person_holds_the_other_pad(world: World) -> None:
    frame = play(Session(world, Choice(game=0, frame=20)), [(RIGHT, JUMP)])[0]
    assert frame["button_X"].tolist() == [False, True]


def test_inputs_that_have_ended_are_a_neutral_pad_of_the_second_person(world: World) -> None:
    last = world.starts[0].frames - 2
    session = Session(world, Choice(game=0, frame=last, rival=0))
    assert session.recording_left == 1
    frames = play(session, [(RIGHT, Held())] * 3)
    assert session.recording_left == 0
    assert frames[-1]["main_stick_x"].tolist() == [1.0, 0.5]


def test_the_same_inputs_make_the_same_frames_again(world: World) -> None:
    held = [(RIGHT, Held()), (JUMP, Held()), (Held(), RIGHT)] * 4
    session = Session(world, Choice(game=1, frame=12))
    first = play(session, held)
    session.restart(session.choice)
    assert len(session.frames) == 1
    assert are_equal(play(session, held), first)


@pytest.mark.parametrize(("game", "frame"), [(0, 10_000), (0, -1), (99, 20), (-1, 20)])
def test_a_start_that_there_is_not_leaves_the_session_as_it_was(world: World, game: int, frame: int) -> None:
    session = Session(world, Choice(game=0, frame=20))
    play(session, [(RIGHT, Held())])
    with pytest.raises(UserError, match=r"expected|there is no validation game"):
        session.restart(Choice(game=game, frame=frame))
    assert (session.choice.frame, len(session.frames)) == (20, 2)


def test_a_saved_session_is_a_game_that_the_readers_accept(world: World, tmp_path: Path) -> None:
    session = Session(world, Choice(game=0, frame=20, rival=0))
    play(session, [(RIGHT, Held()), (JUMP, Held())] * 5)
    path = session.save(tmp_path)
    entry = json.loads((tmp_path / "meta.json").read_text())[0]
    game = read_game(path.read_bytes(), path.name, entry)
    assert (game.frames, game.stage) == (11, session.start.stage)
    for player in range(PLAYERS):
        for field in PLAYER_FIELDS:
            written = np.array([frame[field.name][player] for frame in session.frames])
            assert np.allclose(game.planes.column(player, field.name), written), field.name
    assert [unit.name for unit in list_source(str(tmp_path), training_only=False).units] == [path.name]


def test_a_saved_session_is_not_trained_on_unless_asked_for(world: World, tmp_path: Path) -> None:
    session = Session(world, Choice(game=0, frame=20))
    play(session, [(RIGHT, Held())])
    session.save(tmp_path)
    assert not list_source(str(tmp_path)).units


def test_two_sessions_are_two_games(world: World, tmp_path: Path) -> None:
    session = Session(world, Choice(game=0, frame=20))
    paths = []
    for held in (RIGHT, JUMP):
        session.restart(session.choice)
        play(session, [(held, Held())])
        paths.append(session.save(tmp_path))
    assert len(set(paths)) == 2 == len(json.loads((tmp_path / "meta.json").read_text()))


def test_nothing_played_is_nothing_to_save(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no frame was played yet"):
        Session(world, Choice(game=0, frame=20)).save(tmp_path / "played")
    assert not (tmp_path / "played").exists()


def test_a_session_ends_after_a_games_longest_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_room, "LONGEST", 3)
    session = Session(world, Choice(game=0, frame=20))
    play(session, [(RIGHT, Held())] * 3)
    with pytest.raises(UserError, match="eight minutes are played"):
        session.advance((RIGHT, Held()))
