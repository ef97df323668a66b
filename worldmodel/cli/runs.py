"""`worldmodel runs`, `show`, `fetch`, `export`: what was trained, and how to take it away."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from worldmodel.cli.verb import Result, Verb, metavar
from worldmodel.errors import UserError


@dataclass(frozen=True, kw_only=True)
class StorageVerb(Verb):
    """A verb that looks into the storage."""

    storage: str = "runs"
    """Folder or URI that holds run folders."""

    def run(self) -> Result:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class RunVerb(StorageVerb):
    """A verb about one run."""

    name: Annotated[Positional[str], metavar("RUN")]
    """A run's folder or URI, or its name under --storage."""

    @property
    def location(self) -> str:
        """Folder or URI of the run: `name` itself where it is a path, else that name under the storage."""
        if "/" in self.name or Path(self.name, "run.json").exists():
            return self.name
        return f"{self.storage.rstrip('/')}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class Runs(StorageVerb):
    """List all runs: state, step, best metric, and why those ended that did not finish."""

    def run(self) -> Result:
        raise UserError("`worldmodel runs` is not built yet")


@dataclass(frozen=True, kw_only=True)
class Show(RunVerb):
    """Show one run's card and how it ended."""

    def run(self) -> Result:
        raise UserError("`worldmodel show` is not built yet")


@dataclass(frozen=True, kw_only=True)
class Fetch(RunVerb):
    """Bring a run's best checkpoint here, its checksums verified; an interrupted download goes on."""

    dest: Annotated[Positional[Path], metavar("DEST")]
    """Folder to write it to."""

    def run(self) -> Result:
        raise UserError("`worldmodel fetch` is not built yet")


@dataclass(frozen=True, kw_only=True)
class Export(RunVerb):
    """Write a run's best weights as a .pt that the users' model classes load."""

    out: Annotated[Positional[Path], metavar("FILE")]
    """The .pt file to write."""

    def run(self) -> Result:
        raise UserError("`worldmodel export` is not built yet")
