"""`worldmodel tail` and `worldmodel stop`: what a run or a grid says while it works, and asking it to end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional

from worldmodel.cli.followed import LIVE_STATES, Followed, FollowedGrid, FollowedRun, wait_for_end
from worldmodel.cli.runs import RunVerb
from worldmodel.cli.verb import Result, metavar, report
from worldmodel.redaction import strip_controls

STATUS = {**dict.fromkeys(LIVE_STATES, 0), "finished": 0, "stopped": 130}
"""Exit status by state; any other is 1."""


@dataclass(frozen=True, kw_only=True)
class FollowVerb(RunVerb):
    """A verb about one run, or all trials of a grid."""

    name: Annotated[Positional[str], metavar("RUN|GRID")]
    """A folder or URI, or a name under --storage; GRID/TRIAL for one trial of a grid."""

    def open(self) -> Followed:
        """The run or grid of that name.

        Raises:
            UserError: there is none.
        """
        from tune.record import GRID
        from worldmodel.run.run import RECORD
        from worldmodel.storage import Location

        location = Location.of(self.path)
        if (location / RECORD).exists():
            return FollowedRun(location)
        if (location / GRID).exists():
            return FollowedGrid(location)
        raise self.make_refusal(location, "run or grid")

    def judge(self, result: Result) -> int:
        return STATUS.get(result["state"], 1)

    def render(self, result: Result) -> str:
        lines = [f"{result['name']}: {result['end']}"]
        if result["resume_command"] and result["state"] not in (*LIVE_STATES, "finished"):
            lines.append(f"go on with it: {result['resume_command']}")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Tail(FollowVerb):
    """Print what a run or a grid says, until it ends; exit status 0 finished, 130 stopped, 1 failed or lost."""

    lines: Annotated[int, metavar("N")] = 10
    """Lines to begin with, of each run."""
    no_follow: bool = False
    """Print what there is, and no more."""

    def run(self) -> Result:
        followed = self.open()
        has_ended = followed.has_ended  # asked first: what has ended has said all
        tell(followed.read_last(self.lines))
        if self.no_follow or has_ended:
            return followed.describe()
        report(f"following {followed.location}; Ctrl-C ends this, and nothing else")
        wait_for_end(followed, tell)
        return followed.describe()


@dataclass(frozen=True, kw_only=True)
class Stop(FollowVerb):
    """Ask a run, or all trials of a grid, to save a checkpoint and end."""

    reason: Annotated[str, metavar("TEXT")] = ""
    """Why; it stands in the run's record and card. Empty: who asked, and from where."""
    wait: bool = False
    """Return when it has ended."""

    def run(self) -> Result:
        followed = self.open()
        followed.request_stop(self.reason)
        if self.wait:
            wait_for_end(followed)
        return followed.describe()

    def judge(self, result: Result) -> int:
        return 0 if result["state"] == "stopped" else super().judge(result)

    def render(self, result: Result) -> str:
        if result["state"] not in LIVE_STATES:
            return super().render(result)
        return (
            f"asked {result['name']} to stop: it saves a checkpoint and ends within seconds\n"
            f"see it end: worldmodel tail {result['location']}\n"
            f"go on with it then: {result['resume_command']}"
        )


def tell(lines: list[str]) -> None:
    """Print lines at once."""
    for line in lines:
        print(strip_controls(line), flush=True)
