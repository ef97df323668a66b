"""`worldmodel film`: see a run's model move, beside what really happened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from worldmodel.cli.runs import RunVerb, choose_checkpoint
from worldmodel.cli.verb import Result, as_result, metavar
from worldmodel.progress import showing_progress

if TYPE_CHECKING:
    from worldmodel.storage import Location


@dataclass(frozen=True, kw_only=True)
class Film(RunVerb):
    """Film rollouts of a run's model beside the truth: a page to play, scrub and step through, and a video."""

    opening: ClassVar[str] = "opening the model and its games"

    checkpoint: Annotated[str | None, metavar("best|newest|STEP")] = None
    """Which one; default: the best where one has been named, else the newest."""
    data: Annotated[str, metavar("SRC|BLOCKS")] = ""
    """Games or blocks; default: those that the run was trained on."""
    count: Annotated[int, metavar("N")] = 6
    """Rollouts to film, from validation games chosen by a fixed seed."""
    game: Annotated[str, metavar("MD5")] = ""
    """Film this validation game alone: the beginning of its name."""
    frame: Annotated[int, metavar("N")] = 300
    """The first frame that the model makes, in the game that --game names."""
    frames: Annotated[int, metavar("N")] = 300
    """Frames that the model makes on its own; 60 are a second."""
    temperature: Annotated[float, metavar("T")] = 0.0
    """0: the most likely actions; above 0, actions are drawn."""
    video: Annotated[Literal["mp4", "gif"] | None, metavar("mp4|gif")] = None
    """Also a video of the first rollout; default: the page alone."""
    width: Annotated[int, metavar("PIXELS")] = 960
    """Width of the video."""
    out: Annotated[str, metavar("FILE")] = ""
    """Where the page goes (a path or URI that ends in .html), and the video beside it; default: film.html in the run's
    folder, which the grid's report links to."""

    def run(self) -> Result:
        from worldmodel.film.film import FilmRequest, make_film
        from worldmodel.film.page import FILM
        from worldmodel.film.source import ClipOptions
        from worldmodel.film.video import VideoOptions
        from worldmodel.storage import Location

        location, _ = self.find()
        checkpoint = choose_checkpoint(location, self.checkpoint)
        request = FilmRequest(
            data=self.data, count=self.count, game=self.game, frame=self.frame,
            clips=ClipOptions(frames=self.frames), temperature=self.temperature,
            video=VideoOptions(kind=self.video, width=self.width) if self.video else None,
        )  # fmt: skip
        out = Location.of(self.out) if self.out else location / FILM
        with showing_progress() as tell:
            found = as_result(make_film(location, checkpoint, out, request, tell))
        return {**found, "report": link_in_report(location) if out == location / FILM else ""}

    def judge(self, result: Result) -> int:
        return 1 if result["failure"] else 0

    def render(self, result: Result) -> str:
        facts = {name: result[name] for name in ("page", "video", "report") if result[name]}
        lines = [super().render({**facts, "rollouts": result["clips"]}), *(f"note: {note}" for note in result["notes"])]
        return "\n".join([*lines, *([result["failure"]] if result["failure"] else [])])


def link_in_report(run: Location) -> str:
    """Write the report of the run's grid again, where there is one, so that it links to the film; returns its place."""
    from tune.record import GRID, read_grid
    from tune.report import REPORT, write_report
    from tune.results import read_trial

    grid = run.parent
    if not (grid / GRID).exists() or not (grid / REPORT).exists():
        return ""
    write_report(grid, [read_trial(grid, trial) for trial in read_grid(grid).trials])
    return str(grid / REPORT)
