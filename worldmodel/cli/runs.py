"""`worldmodel runs`, `show`, `fetch`: what was trained, and how to take it away."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from tyro.conf import Positional

from worldmodel.cli.verb import Result, Verb, as_result, metavar
from worldmodel.errors import UserError, nearest
from worldmodel.progress import showing_progress

if TYPE_CHECKING:
    from worldmodel.run.record import RunRecord
    from worldmodel.run.run_folder import FoundRun
    from worldmodel.storage import Location

TABLE_WIDTH, NARROWEST = 160, 100
"""Columns of a table where no terminal says how many it has, and the fewest that it takes."""


@dataclass(frozen=True, kw_only=True)
class StorageVerb(Verb):
    """A verb that looks into the storage."""

    storage: Annotated[str, metavar("DIR")] = "runs"
    """Folder or URI that holds run folders."""

    def run(self) -> Result:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class RunVerb(StorageVerb):
    """A verb about one run."""

    marks: ClassVar[tuple[str, ...]] = ("run.json", "grid.json")
    """Files by which a folder in reach of a relative path is known."""
    name: Annotated[Positional[str], metavar("RUN")]
    """A run's folder or URI, or its name under --storage; GRID/TRIAL for a trial of a grid."""

    @property
    def path(self) -> str:
        """Folder or URI of the run: `name` itself where it is a path to here, else that name under the storage."""
        here = Path(self.name)
        is_path = (
            self.name.startswith(("/", ".", "~"))
            or "://" in self.name
            or any((here / file).exists() for file in self.marks)
        )
        if is_path or ("/" in self.name and here.parent.is_dir()):
            return self.name
        return f"{self.storage.rstrip('/')}/{self.name}"

    def find(self) -> tuple[Location, RunRecord]:
        """The run's folder and its record.

        Raises:
            UserError: there is no such run.
        """
        from worldmodel.object_store import MissingError
        from worldmodel.run.run_folder import read_record
        from worldmodel.storage import Location

        location = Location.of(self.path)
        try:
            return location, read_record(location)
        except MissingError:
            raise self.make_refusal(location, "run") from None

    def make_refusal(self, location: Location, what: str) -> UserError:
        """That there is nothing of the kind at a place, and what there is."""
        from worldmodel.run.run_folder import find_runs

        trials = [f"{location.name}/{run.location.name}" for run in find_runs(location)]
        if trials:
            return UserError(f"{location} is a grid: name one of its trials: {', '.join(sorted(trials))}")
        runs = [place_below(location.parent, run.location) for run in find_runs(location.parent)]
        known = sorted({*runs, *(name.split("/")[0] for name in runs)})
        hint = nearest(location.name, known) or f"; there are: {', '.join(known) or 'none'}"
        return UserError(f"there is no {what} {location.name!r} in {location.parent}{hint}")


@dataclass(frozen=True, kw_only=True)
class Runs(StorageVerb):
    """List all runs: state, step, best metric, and why those ended that did not finish."""

    def run(self) -> Result:
        from worldmodel.run.run_folder import find_runs
        from worldmodel.storage import Location

        storage = Location.of(self.storage)
        if not storage.exists():
            raise UserError(f"there is no folder {storage}: name the one that holds your runs with --storage")
        runs = [close_lost(run) for run in find_runs(storage)]
        rows = [describe_run(place_below(storage, run.location), run) for run in runs]
        return {"storage": self.storage, "runs": rows}

    def render(self, result: Result) -> str:
        from rich.console import Console
        from rich.table import Table

        if not result["runs"]:
            return f"no runs in {result['storage']}"
        rows = [render_row(row) for row in result["runs"]]
        table = Table(*rows[0])
        for row in rows:
            table.add_row(*row.values())
        page = io.StringIO()
        width = shutil.get_terminal_size((TABLE_WIDTH, 0)).columns
        Console(file=page, width=max(width, NARROWEST)).print(table)
        return page.getvalue().rstrip()


@dataclass(frozen=True, kw_only=True)
class Show(RunVerb):
    """Show one run's card and how it ended, or how long it took to begin (of a grid as well)."""

    timeline: bool = False
    """Show the time of each phase up to the first training step instead."""

    def run(self) -> Result:
        from worldmodel.run.run_folder import describe_end

        if self.timeline:
            return self.read_timeline()
        from worldmodel.run.certificate import certify

        location, _ = self.find()
        record = certify(location)
        card = location / "card.md"
        text = card.read_text() if card.exists() else None
        facts = {"location": str(location), "card": text, "end": describe_end(record), "cost_usd": record.cost_usd}
        return {**record.model_dump(mode="json"), **facts}

    def read_timeline(self) -> Result:
        """The phases of the run, or of the grid with its first trial's."""
        from tune.record import GRID, read_grid
        from tune.timeline import join_phases
        from worldmodel.run.run_folder import find_runs
        from worldmodel.run.timeline import is_complete
        from worldmodel.storage import Location

        location = Location.of(self.path)
        if (location / GRID).exists():
            runs = [run.record for run in find_runs(location)]
            phases = join_phases(read_grid(location), runs)
        else:
            location, record = self.find()
            phases = list(record.phases)
        return {
            "location": str(location),
            "phases": [phase.model_dump(mode="json") for phase in phases],
            "seconds": round(sum(phase.seconds for phase in phases), 3),
            "has_begun": is_complete(phases),
        }

    def render(self, result: Result) -> str:
        from worldmodel.run.card_page import to_terminal

        if self.timeline:
            return render_timeline(result)
        best, has_card = result["best"], bool(result["card"])
        facts = {
            "location": result["location"],
            "run": "" if has_card else f"{result['name']} {result['end']}",
            "best": f"{best['metric']} {best['value']:.4f} at step {best['step']}" if best and not has_card else "",
            "all metrics": f"{result['location']}/card.html" if has_card else "",
            "checkpoint": f"{result['location']}/{result['checkpoint']}" if result["checkpoint"] else "",
            "resume": "" if result["state"] == "finished" else result["resume_command"],
        }
        ended = super().render({name: text for name, text in facts.items() if text})
        width = min(max(shutil.get_terminal_size((NARROWEST, 0)).columns, 60), 120)
        parts = [
            to_terminal(result["card"], width) if has_card else "",
            ended,
            result["traceback"] if result["traceback"] not in (result["card"] or "") else "",
        ]
        return "\n\n".join(part.rstrip() for part in parts if part)


@dataclass(frozen=True, kw_only=True)
class Fetch(RunVerb):
    """Bring a run here: its record, metrics and one checkpoint; or the games of an upload (name its folder or URI).

    All bytes are verified; an interrupted download goes on.
    """

    opening: ClassVar[str] = "looking at the files"
    tells_bytes: ClassVar[bool] = True

    marks: ClassVar[tuple[str, ...]] = (*RunVerb.marks, "upload.json", "upload-unfinished.json")
    dest: Annotated[Positional[Path], metavar("DEST")]
    """Folder that becomes a copy of the run's, or of the upload's."""
    checkpoint: Annotated[str | None, metavar("best|newest|STEP")] = None
    """Which one; default: the best where one has been named, else the newest."""
    expect: Annotated[str | None, metavar("SHA256")] = None
    """The checkpoint's sha256, as `train` or an earlier `fetch` printed it; another checkpoint is refused."""

    def run(self) -> Result:
        from worldmodel.games.download import fetch_games, is_upload
        from worldmodel.run.run_copy import fetch_run
        from worldmodel.storage import Location
        from worldmodel.training.checkpoint import FOLDER
        from worldmodel.training.checkpoint_files import read_manifest

        if is_upload(games := Location.of(self.path)):
            if self.expect is not None:
                raise UserError("--expect names a run's checkpoint; games are compared with their own manifest")
            with showing_progress() as tell:
                return as_result(fetch_games(games, self.dest, tell))
        location, _ = self.find()
        chosen = choose_checkpoint(location, self.checkpoint)
        with showing_progress() as tell:
            files = fetch_run(location, chosen, self.dest, self.expect, tell)
        sha256 = read_manifest(Location.of(self.dest) / FOLDER / chosen.name).sha256
        return {"checkpoint": str(chosen), "sha256": sha256, "files": [str(path) for path in files], "verified": True}


def render_timeline(result: Result) -> str:
    """A table of `Show.read_timeline`."""
    from rich.console import Console
    from rich.table import Table

    if not result["phases"]:
        return f"{result['location']}: no times are known: it was made by an older version, or has not begun"
    goal = "first training step" if result["has_begun"] else "no training step yet,"
    table = Table("phase", "took", "ends after")
    seconds = 0.0
    for phase in result["phases"]:
        seconds += phase["seconds"]
        table.add_row(phase["name"], f"{phase['seconds']:.1f} s", f"{seconds:.1f} s")
    page = io.StringIO()
    Console(file=page, width=NARROWEST).print(table)
    return f"{page.getvalue().rstrip()}\n{goal} after {result['seconds']:.1f} s ({result['location']})"


def choose_checkpoint(run: Location, which: str | None) -> Location:
    """The checkpoint that `which` names; None: the best where one has been named, else the newest."""
    from worldmodel.training.checkpoint_list import find_checkpoint, read_best

    return find_checkpoint(run, which or ("best" if read_best(run) else "newest"))


def place_below(storage: Location, location: Location) -> str:
    """What names a run below a storage: its folder's name, GRID/TRIAL for a trial of a grid."""
    return location.uri.removeprefix(storage.uri).strip("/")


def close_lost(run: FoundRun) -> FoundRun:
    """The run; where its process is gone without a word, its folder says so from now on."""
    from worldmodel.run.certificate import certify
    from worldmodel.run.record import State

    if run.record.state not in (State.LOST, State.STOPPED) or run.record.ended_by:
        return run
    try:
        return replace(run, record=certify(run.location))
    except UserError:  # a record that cannot be understood is shown as such
        return run


def describe_run(name: str, run: FoundRun) -> dict[str, Any]:
    """One row of the list of runs."""
    record, best = run.record, run.record.best
    return {
        "name": name,
        "state": record.state.value,
        "step": f"{record.step}/{record.total_steps}" if record.total_steps else str(record.step),
        "epoch": record.epoch,
        "best": best.value if best else None,
        "metric": best.metric if best else None,
        "validated": record.validated,
        "seconds": record.seconds.total,
        "cost_usd": record.cost_usd,
        "started": f"{record.started:%Y-%m-%d %H:%M}",
        "reason": record.reason,
        "location": str(run.location),
    }


def render_row(row: Mapping[str, Any]) -> dict[str, str]:
    """A row of `describe_run` for people, by heading."""
    from worldmodel.run.reporter import format_duration

    best = "" if row["best"] is None else f"{row['best']:.4f} {row['metric'].rsplit('/', 1)[-1]}"
    best += f" ({row['validated']})" if best and row["validated"] else ""
    return {
        "run": row["name"],
        "state": row["state"],
        "step": row["step"],
        "epoch": str(row["epoch"]),
        "best": best,
        "time": format_duration(row["seconds"]),
        "cost": "" if row["cost_usd"] is None else f"${row['cost_usd']:.2f}",
        "started": row["started"],
        "reason": row["reason"],
    }
