"""`worldmodel runs`, `show`, `fetch`, `export`: what was trained, and how to take it away."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional

from worldmodel.cli.verb import Result, Verb, metavar
from worldmodel.errors import UserError, nearest

if TYPE_CHECKING:
    from worldmodel.storage import Location
    from worldmodel.training.record import RunRecord


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

    name: Annotated[Positional[str], metavar("RUN")]
    """A run's folder or URI, or its name under --storage."""

    @property
    def path(self) -> str:
        """Folder or URI of the run: `name` itself where it is a path, else that name under the storage."""
        if "/" in self.name or Path(self.name, "run.json").exists():
            return self.name
        return f"{self.storage.rstrip('/')}/{self.name}"

    def find(self) -> tuple[Location, RunRecord]:
        """The run's folder and its record.

        Raises:
            UserError: there is no such run.
        """
        from worldmodel.object_store import MissingError
        from worldmodel.storage import Location
        from worldmodel.training.run_folder import find_runs, read_record

        location = Location.of(self.path)
        try:
            return location, read_record(location)
        except MissingError:
            known = [run.record.name for run in find_runs(location.parent)]
        hint = nearest(location.name, known) or f"; there are: {', '.join(known) or 'none'}"
        raise UserError(f"there is no run {location.name!r} in {location.parent}{hint}")


@dataclass(frozen=True, kw_only=True)
class Runs(StorageVerb):
    """List all runs: state, step, best metric, and why those ended that did not finish."""

    def run(self) -> Result:
        from worldmodel.storage import Location
        from worldmodel.training.run_folder import find_runs

        found = find_runs(Location.of(self.storage))
        return {"storage": self.storage, "runs": [describe_run(str(run.location), run.record) for run in found]}

    def render(self, result: Result) -> str:
        from rich.console import Console
        from rich.table import Table

        if not result["runs"]:
            return f"no runs in {result['storage']}"
        headings = [name for name in result["runs"][0] if name != "location"]
        table = Table(*headings)
        for row in result["runs"]:
            table.add_row(*("" if row[name] is None else str(row[name]) for name in headings))
        page = io.StringIO()
        Console(file=page, width=160).print(table)
        return page.getvalue().rstrip()


@dataclass(frozen=True, kw_only=True)
class Show(RunVerb):
    """Show one run's card and how it ended."""

    def run(self) -> Result:
        location, record = self.find()
        card = location / "card.md"
        text = card.read_text() if card.exists() else None
        return {**record.model_dump(mode="json"), "location": str(location), "card": text}

    def render(self, result: Result) -> str:
        ended = {
            name: result[name] for name in ("location", "state", "reason", "step", "total_steps", "resume_command")
        }
        parts = [result["card"], super().render(ended), result["traceback"]]
        return "\n\n".join(part.rstrip() for part in parts if part)


@dataclass(frozen=True, kw_only=True)
class Fetch(RunVerb):
    """Bring a run here: its record, metrics and one checkpoint, verified; an interrupted download goes on."""

    dest: Annotated[Positional[Path], metavar("DEST")]
    """Folder that becomes a copy of the run folder."""
    checkpoint: Annotated[str | None, metavar("best|newest|STEP")] = None
    """Which one; None: the best where one has been named, else the newest."""

    def run(self) -> Result:
        from worldmodel.training.run_copy import fetch_run

        location, _ = self.find()
        chosen = choose_checkpoint(location, self.checkpoint)
        files = fetch_run(location, chosen, self.dest)
        return {"checkpoint": str(chosen), "files": [str(path) for path in files], "verified": True}


@dataclass(frozen=True, kw_only=True)
class Export(RunVerb):
    """Write a run's best weights as a .pt that the users' model classes load."""

    out: Annotated[Positional[Path], metavar("FILE")]
    """The .pt file to write."""
    checkpoint: Annotated[str | None, metavar("best|newest|STEP")] = None
    """Which one; None: the best where one has been named, else the newest."""

    def run(self) -> Result:
        from worldmodel.model.build import build_model
        from worldmodel.model.exchange import export_checkpoint
        from worldmodel.training.checkpoint import load_checkpoint
        from worldmodel.training.run_folder import read_config

        location, _ = self.find()
        chosen = choose_checkpoint(location, self.checkpoint)
        config, checkpoint = read_config(location), load_checkpoint(chosen)
        model = build_model(config.model, config.encoding.layout)
        model.load_state_dict(dict(checkpoint.weights))
        export_checkpoint(model, self.out, epoch=checkpoint.state.epoch - 1)  # theirs count from 0
        return {"checkpoint": str(chosen), "step": checkpoint.state.step, "file": str(self.out)}


def choose_checkpoint(run: Location, which: str | None) -> Location:
    """The checkpoint that `which` names; None: the best where one has been named, else the newest."""
    from worldmodel.training.checkpoint_list import find_checkpoint, read_best

    return find_checkpoint(run, which or ("best" if read_best(run) else "newest"))


def describe_run(location: str, record: RunRecord) -> dict[str, Any]:
    """One row of the list of runs."""
    best = record.best
    return {
        "name": record.name,
        "state": record.state.value,
        "step": f"{record.step}/{record.total_steps}" if record.total_steps else str(record.step),
        "epoch": record.epoch,
        "best": best.value if best else None,
        "metric": best.metric if best else None,
        "hours": round(record.seconds.total / 3600, 2),
        "cost_usd": None if record.cost_usd is None else round(record.cost_usd, 2),
        "started": f"{record.started:%Y-%m-%d %H:%M}",
        "reason": record.reason,
        "location": location,
    }
