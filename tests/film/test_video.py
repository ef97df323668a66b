"""Videos: as long and as large as asked, and a failure that says why and costs nothing else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from tests.film.rooms import STEP, open_roller
from worldmodel.film.clip import Clip
from worldmodel.film.film import FilmRequest, make_film
from worldmodel.film.look import COLORS
from worldmodel.film.page import FILM
from worldmodel.film.picture import Picture
from worldmodel.film.source import ClipOptions, make_clips
from worldmodel.film.video import VideoError, VideoOptions, write_video
from worldmodel.rollout.roller import Start
from worldmodel.storage import Location

SHORT = ClipOptions(frames=13, lead=5)


@pytest.fixture(scope="module")
def clip(run: Location) -> Clip:
    return make_clips(open_roller(run), [Start(game=0, frame=30)], SHORT)[0]


@pytest.fixture
def broken_encoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/bin/false")
    yield


def test_an_mp4_has_every_frame_at_the_games_rate(clip: Clip, tmp_path: Path) -> None:
    write_video(clip, Location.of(tmp_path / "film.mp4"), VideoOptions(kind="mp4", width=320))
    frames = imageio_ffmpeg.read_frames(str(tmp_path / "film.mp4"))
    about = next(frames)
    assert about["size"] == (320, 186) and about["fps"] == 60
    assert sum(1 for _ in frames) == clip.frames


def test_a_gif_has_every_third_frame(clip: Clip, tmp_path: Path) -> None:
    write_video(clip, Location.of(tmp_path / "film.gif"), VideoOptions(kind="gif", width=320))
    with Image.open(tmp_path / "film.gif") as film:
        assert film.size == (320, 186)
        assert film.n_frames == 6
        assert film.info["duration"] == 50


def find_color(picture: np.ndarray, color: str) -> np.ndarray:
    """(N, 2) rows and columns of the pixels of a colour."""
    wanted = [int(color[n : n + 2], 16) for n in (1, 3, 5)]
    return np.argwhere((abs(picture.astype(int) - wanted) < 12).all(-1))


def test_a_player_is_drawn_where_the_player_is(clip: Clip) -> None:
    truth = {name: values.copy() for name, values in clip.truth.items()}
    truth["x"][:] = [-40.0, 40.0]
    truth["y"][:], truth["action"][:], truth["hitlag"][:], truth["invulnerable"][:] = 0.0, 14, 0, False
    drawn = Picture(replace(clip, truth=truth, predicted=truth, stage_id=32), 960).draw(3)
    first, second = (find_color(drawn[12:340, :474], color).mean(0) for color in COLORS["players"])
    assert first[1] < second[1] - 50
    assert abs(first[0] - second[0]) < 12


def test_every_stage_and_neutral_ground_can_be_drawn(clip: Clip) -> None:
    pictures = [Picture(replace(clip, stage_id=ident), 240).draw(9) for ident in (2, 3, 8, 28, 31, 32, 13)]
    assert {picture.shape for picture in pictures} == {(140, 240, 3)}
    assert len({picture.tobytes() for picture in pictures}) == 7


def test_an_encoder_that_fails_says_so_and_leaves_no_file(clip: Clip, tmp_path: Path, broken_encoder: None) -> None:
    with pytest.raises(VideoError, match="no video: ffmpeg failed"):
        write_video(clip, Location.of(tmp_path / "film.mp4"), VideoOptions(kind="mp4", width=320))
    assert not list(tmp_path.iterdir())


def test_the_page_is_there_where_the_encoder_fails(run: Location, tmp_path: Path, broken_encoder: None) -> None:
    request = FilmRequest(count=1, clips=SHORT, video=VideoOptions(kind="gif", width=320))
    film = make_film(run, run / STEP, Location.of(tmp_path / FILM), request)
    assert film.failure.startswith("no video") and film.video == ""
    assert (tmp_path / FILM).stat().st_size > 10_000


def test_a_missing_package_is_named_with_what_adds_it(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(VideoError, match=r"imageio_ffmpeg is not installed \(pip install 'worldmodel\[film\]'\)"):
        write_video(clip, Location.of(tmp_path / "film.mp4"), VideoOptions(kind="mp4"))
