"""`worldmodel doctor`: whether runs would work here, or on the cluster, before they cost anything."""

from __future__ import annotations

import io
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from worldmodel.cli.verb import Result, Verb, metavar

WIDTH = 140
"""Columns of the table where no terminal says how many it has."""


@dataclass(frozen=True, kw_only=True)
class Doctor(Verb):
    """Check machines, storage, data, W&B, prices and cluster settings, then rehearse two batches; failures end with
    status 1. With RAY_ADDRESS, as in a job, all machines of that Ray are looked at."""

    storage: Annotated[str, metavar("DIR")] = ""
    """Folder or URI of runs; default: $WORLDMODEL_STORAGE, else runs."""
    data: Annotated[str, metavar("SRC|BLOCKS")] = ""
    """Folder or URI of games or blocks; default: $WORLDMODEL_DATA, else none is looked at."""
    gpus_per_trial: Annotated[float, metavar("GPUS")] = 0.0
    """GPUs that a trial will ask for; above 0, their absence is a failure."""
    cluster: Annotated[Path | None, metavar("FILE")] = None
    """A cluster's YAML that is about to be used: what it leaves unset is a failure."""
    fix: bool = False
    """Make what the cluster needs and can be made here (Ray's token, its SSH key); commands for the rest are shown."""
    wait_minutes: Annotated[float, metavar("MINUTES")] = 0.0
    """Have a machine started that a trial fits on, and wait so long for it; 0: only what is up is looked at."""
    no_rehearse: bool = False
    """Leave out the two batches."""

    def run(self) -> Result:
        from worldmodel.doctor.preflight import Preflight, examine
        from worldmodel.doctor.table import to_rows

        began = time.monotonic()
        request = Preflight(
            storage=self.storage or os.environ.get("WORLDMODEL_STORAGE", "") or "runs",
            data=self.data or os.environ.get("WORLDMODEL_DATA", ""),
            gpus=self.gpus_per_trial, cluster=self.cluster, fix=self.fix, wait_seconds=60 * self.wait_minutes,
            has_rehearsal=not self.no_rehearse,
        )  # fmt: skip
        checks = examine(request)
        failures = sum(check.is_failed for check in checks)
        return {"failed": failures, "seconds": round(time.monotonic() - began, 2), "checks": to_rows(checks)}

    def judge(self, result: Result) -> int:
        return 1 if result["failed"] else 0

    def render(self, result: Result) -> str:
        from rich.console import Console

        from worldmodel.doctor.check import Check, Outcome
        from worldmodel.doctor.table import render_table, summarise

        checks = [Check(**{**row, "outcome": Outcome(row["outcome"])}) for row in result["checks"]]
        is_terminal = sys.stdout.isatty()
        console = Console(file=io.StringIO(), force_terminal=is_terminal, width=None if is_terminal else WIDTH)
        with console.capture() as shown:
            console.print(render_table(checks))
        return f"{shown.get().rstrip()}\n{summarise(checks, result['seconds'])}"
