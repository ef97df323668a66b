"""Making a run's film: the page always, a video where one is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from worldmodel.film.clip import Clip
from worldmodel.film.page import Heading, describe_clip, to_html
from worldmodel.film.source import ClipOptions, choose_starts, find_start, make_clips
from worldmodel.film.video import VideoError, VideoOptions, write_video
from worldmodel.progress import Tell, say_nothing
from worldmodel.rollout.loading import LoadedRun, load_model, open_games
from worldmodel.rollout.roller import Choice, Roller
from worldmodel.run.reporter import format_count
from worldmodel.storage import Location


@dataclass(frozen=True, kw_only=True)
class FilmRequest:
    """What is to be filmed."""

    data: str = ""
    """Games or blocks; empty: those of the run."""
    count: int = 6
    """Rollouts, where no game is named."""
    game: str = ""
    """Beginning of a validation game's name; empty: games are chosen."""
    frame: int = 300
    """The first frame that the model makes, in the game that is named."""
    clips: ClipOptions = field(default_factory=ClipOptions)
    temperature: float = 0.0
    """0: the most likely action; above, actions are drawn."""
    video: VideoOptions | None = None
    """Also a video of the first rollout."""


@dataclass(frozen=True, kw_only=True)
class Film:
    """What was made."""

    page: str
    """Location of the page."""
    video: str
    """Location of the video; empty: none was asked for, or it failed."""
    clips: tuple[str, ...]
    """What each rollout shows."""
    coherence: tuple[float, ...]
    """Each rollout's position MAE over its first 20 frames."""
    notes: tuple[str, ...]
    failure: str
    """Why there is no video, though one was asked for."""


def make_film(
    run: Location, checkpoint: Location, out: Location, request: FilmRequest, tell: Tell = say_nothing
) -> Film:
    """Films a checkpoint of a run into the page `out` and, beside it, a video.

    Raises:
        UserError: there is nothing to film: no such game, a start beyond its end, a damaged checkpoint; or a
            temperature that means nothing.
    """
    choice = Choice(temperature=request.temperature)
    loaded = load_model(run, checkpoint)
    dataset, notes = open_games(run, loaded.config, request.data)
    roller = Roller(loaded, dataset, choice=choice)
    starts = (
        [find_start(roller, request.game, request.frame)]
        if request.game
        else choose_starts(roller, request.count, request.clips)
    )
    clips = make_clips(roller, starts, request.clips, tell)
    notes = (*notes, *_list_short(clips, request.clips.frames))
    out.write_text(to_html(clips, Heading(run=name_run(run), model=describe_model(loaded), notes=notes)))
    video, failure = _make_video(clips[0], out, request.video, tell)
    return Film(
        page=str(out), video=video, clips=tuple(map(describe_clip, clips)),
        coherence=tuple(clip.coherence for clip in clips), notes=notes, failure=failure,
    )  # fmt: skip


def _make_video(clip: Clip, page: Location, options: VideoOptions | None, tell: Tell) -> tuple[str, str]:
    """Where the video is, and why it is not."""
    if options is None:
        return "", ""
    place = page.parent / f"{page.name.removesuffix('.html')}.{options.kind}"
    try:
        write_video(clip, place, options, tell)
    except VideoError as error:  # the page is there
        return "", str(error)
    return str(place), ""


def _list_short(clips: Sequence[Clip], frames: int) -> list[str]:
    return [
        f"game {clip.md5[:8]} ends {clip.frames - clip.lead} frames after the start: {frames} were asked for"
        for clip in clips
        if clip.frames - clip.lead < frames
    ]


def name_run(run: Location) -> str:
    """A run's name, with its grid's."""
    return f"{run.parent.name} / {run.name}"


def describe_model(run: LoadedRun) -> str:
    """Which checkpoint, of how many parameters."""
    parameters = sum(parameter.numel() for parameter in run.model.parameters())
    return f"step {run.step:,}, {format_count(parameters)} parameters"
