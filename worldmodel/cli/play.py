"""`worldmodel play`: play inside a run's model, in a browser on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from worldmodel.cli.runs import RunVerb, choose_checkpoint
from worldmodel.cli.verb import Result, metavar, report


@dataclass(frozen=True, kw_only=True)
class Play(RunVerb):
    """Play inside a run's model: a page on this machine alone, with keyboard or gamepad, until Ctrl-C."""

    checkpoint: Annotated[str | None, metavar("best|newest|STEP")] = None
    """Which one; default: the best where one has been named, else the newest."""
    data: Annotated[str, metavar("SRC|BLOCKS")] = ""
    """Games or blocks to begin from; default: those that the run was trained on."""
    port: Annotated[int, metavar("PORT")] = 8787
    """Port on 127.0.0.1; 0: any that is free."""
    out: Annotated[Path, metavar("DIR")] = Path("played")
    """Folder of parsed games that saved sessions go to."""

    def run(self) -> Result:
        from worldmodel.play.server import HOST, Table, open_port, serve
        from worldmodel.play.session import Choice, Session
        from worldmodel.play.world import open_world

        location, _ = self.find()
        checkpoint = choose_checkpoint(location, self.checkpoint)
        listening = open_port(self.port)
        world, notes = open_world(location, checkpoint, self.data)
        for note in notes:
            report(f"note: {note}")
        table = Table(Session(world, Choice.first(world)), self.out)
        report(f"play at http://{HOST}:{listening.getsockname()[1]} ; Ctrl-C ends it")
        serve(table, listening)
        return {"run": str(location), "frames": table.played, "saved": [str(path) for path in table.saved]}
