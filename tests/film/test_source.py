"""Clips: what the model says beside what the game's own file says."""

from __future__ import annotations

from math import nan
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.film.rooms import STEP, open_roller
from worldmodel.errors import UserError
from worldmodel.film.clip import CONTROLS, DRAWN
from worldmodel.film.film import FilmRequest, make_film
from worldmodel.film.source import ClipOptions, choose_starts, find_start, make_clips
from worldmodel.rollout.roller import Roller, Start
from worldmodel.schema import PLAYERS
from worldmodel.storage import Location

SHORT = ClipOptions(frames=12, lead=5)


@pytest.fixture(scope="module")
def roller(run: Location) -> Roller:
    return open_roller(run)


def test_a_clip_is_the_game_and_then_the_model_beside_it(roller: Roller) -> None:
    start = Start(game=0, frame=30)
    clip = make_clips(roller, [start], SHORT)[0]
    rolled = roller.roll([start], SHORT.frames)
    assert (clip.frames, clip.lead, clip.first, clip.start) == (17, 5, 25, 29)
    for name in DRAWN:
        assert np.array_equal(clip.predicted[name][:5], clip.truth[name][:5])
        assert np.array_equal(clip.predicted[name][5:], rolled.predicted[name][0])
        assert np.array_equal(clip.truth[name][5:], rolled.true[name][0])
    assert all(clip.truth[name].shape == (17, PLAYERS) for name in CONTROLS)
    assert clip.error[:5].max() == 0 == clip.baseline[:5].max()


def test_the_error_is_the_mean_distance_in_x_and_y(roller: Roller) -> None:
    clip = make_clips(roller, [Start(game=0, frame=30)], SHORT)[0]
    gaps = [abs(float(clip.predicted[n][9, p]) - float(clip.truth[n][9, p])) for n in "xy" for p in range(PLAYERS)]
    assert clip.error[9] == pytest.approx(sum(gaps) / 4, rel=1e-5)
    assert clip.coherence == pytest.approx(clip.error[5:].mean(), rel=1e-6)


def test_the_baseline_goes_on_at_the_speeds_of_the_last_true_frame(roller: Roller) -> None:
    clip = make_clips(roller, [Start(game=0, frame=30)], SHORT)[0]
    before = {name: values[0] for name, values in roller.begin([Start(game=0, frame=30)]).to_arrays().items()}
    is_free = before["hitlag"][0] <= 1
    on_ground = before["on_ground"][0]
    speed = np.where(on_ground, before["speed_ground_x"][0], before["speed_air_x"][0]) + before["speed_attack_x"][0]
    moved = clip.kinematic["x"][5] - clip.truth["x"][4]
    assert moved == pytest.approx(np.where(is_free, speed, 0), abs=1e-3)


def test_starts_are_the_same_every_time_and_have_the_clip_behind_them(roller: Roller) -> None:
    starts = choose_starts(roller, 5, SHORT)
    assert starts == choose_starts(roller, 5, SHORT)
    assert len(starts) == 5 and {start.game for start in starts} == set(range(len(roller.games)))
    assert all(start.frame + SHORT.frames <= roller.games[start.game].frames for start in starts)
    assert starts != choose_starts(roller, 5, SHORT, seed=43)


def test_a_game_that_ends_ends_its_clip(roller: Roller) -> None:
    last = roller.games[0].frames - 3
    clip = make_clips(roller, [Start(game=0, frame=last)], SHORT)[0]
    assert clip.frames == 5 + 3


def test_a_start_near_the_beginning_has_a_shorter_lead(roller: Roller) -> None:
    clip = make_clips(roller, [Start(game=0, frame=roller.earliest)], ClipOptions(frames=4, lead=99))[0]
    assert (clip.first, clip.lead, clip.frames) == (0, roller.earliest, roller.earliest + 4)


@pytest.mark.parametrize("frame", [0, 10_000])
def test_a_start_that_the_game_does_not_have_is_refused(roller: Roller, frame: int) -> None:
    with pytest.raises(UserError, match=f"cannot start at frame {frame}: the game has frames 0 to"):
        make_clips(roller, [Start(game=0, frame=frame)], SHORT)


def test_a_game_is_found_by_the_beginning_of_its_name(roller: Roller) -> None:
    md5 = roller.games[1].md5
    assert find_start(roller, md5[:6], 20) == Start(game=1, frame=20)
    with pytest.raises(UserError, match="no validation games begin with 'zz'"):
        find_start(roller, "zz", 20)
    with pytest.raises(UserError, match=f"{len(roller.games)} validation games begin with ''"):
        find_start(roller, "", 20)


@pytest.mark.parametrize("options", [ClipOptions(frames=0), ClipOptions(lead=0)])
def test_an_empty_clip_is_refused(roller: Roller, options: ClipOptions) -> None:
    with pytest.raises(UserError, match="expected at least 1"):
        make_clips(roller, [Start(game=0, frame=30)], options)


def test_a_temperature_that_means_nothing_is_refused(run: Location, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found temperature nan"):
        make_film(run, run / STEP, Location.of(tmp_path / "film.html"), FilmRequest(temperature=nan))


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_a_model_that_diverged_is_named_as_such(run: Location) -> None:
    broken = open_roller(run)
    with torch.no_grad():
        for parameter in broken.run.model.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(UserError, match="predicts x that is no number, 1 frames after frame 29"):
        make_clips(broken, [Start(game=0, frame=30)], SHORT)
