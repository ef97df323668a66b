"""Pictures as a video: MP4 or GIF, by ffmpeg (the one that imageio-ffmpeg brings)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from worldmodel.errors import UserError
from worldmodel.film.clip import Clip
from worldmodel.progress import Tell, say_nothing
from worldmodel.schema import FRAMES_PER_SECOND
from worldmodel.storage import Location

if TYPE_CHECKING:
    from worldmodel.film.picture import Picture

Kind = Literal["mp4", "gif"]
GIF_EVERY = 3
"""A GIF has every third frame: 20 pictures a second, which all browsers show at that rate."""
GIF_COLORS = 64
NARROWEST, WIDEST = 160, 3840
"""Pixels that a video can be wide."""
INSTALL = "pip install 'worldmodel[film]'"


class VideoError(UserError):
    """The video could not be made; the page does not need it."""


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """How a video is made."""

    kind: Kind
    width: int = 960
    """Pixels."""
    speed: float = 1.0
    """1 is the game's own; .5 takes twice as long."""

    def __post_init__(self) -> None:
        if not NARROWEST <= self.width <= WIDEST or self.speed <= 0:
            raise UserError(
                f"found a video {self.width} pixels wide at speed {self.speed:g}, expected {NARROWEST} to {WIDEST} "
                "pixels and a speed above 0"
            )


def write_video(clip: Clip, out: Location, options: VideoOptions, tell: Tell = say_nothing) -> None:
    """Writes a clip as a video.

    Raises:
        VideoError: what it needs is not installed, or the encoder failed; `out` is then as it was.
    """
    try:
        import imageio_ffmpeg

        from worldmodel.film.picture import Picture
    except ImportError as error:
        raise VideoError(f"no video: {error.name} is not installed ({INSTALL})") from error
    picture = Picture(clip, options.width)
    every = GIF_EVERY if options.kind == "gif" else 1
    rate = FRAMES_PER_SECOND / every * options.speed
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"film.{options.kind}"
        try:
            with closing(
                imageio_ffmpeg.write_frames(str(path), picture.size, fps=rate, **_choose_codec(options.kind))
            ) as writer:
                writer.send(None)
                times = range(0, clip.frames, every)
                for number, image in enumerate(_draw(picture, times), 1):
                    writer.send(image)
                    tell("video", number, len(times))
            content = path.read_bytes()
        except (OSError, RuntimeError) as error:
            raise VideoError(f"no video: ffmpeg failed: {str(error).strip().splitlines()[-1]}") from error
    if not content:
        raise VideoError("no video: ffmpeg wrote an empty file")
    out.write_bytes(content)


def _draw(picture: Picture, times: range) -> Iterator[bytes]:
    for time in times:
        yield np.ascontiguousarray(picture.draw(time)).tobytes()


def _choose_codec(kind: Kind) -> dict[str, object]:
    """Arguments of `imageio_ffmpeg.write_frames`."""
    if kind == "mp4":
        return {"codec": "libx264", "quality": 7, "macro_block_size": 2, "output_params": ["-movflags", "+faststart"]}
    colors = f"split[a][b];[a]palettegen=max_colors={GIF_COLORS}:stats_mode=diff[p];[b][p]paletteuse=dither=none"
    return {"codec": "gif", "pix_fmt_out": "pal8", "macro_block_size": 1, "output_params": ["-filter_complex", colors]}
