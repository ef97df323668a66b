"""The doctor at the start of a grid: before machines are paid for, what would make trials fail is found and told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.console import Console

from tune.options import GridRequest
from tune.resources import Cluster, Resources
from worldmodel.doctor.check import Check, Outcome
from worldmodel.doctor.preflight import Preflight, examine, examine_quickly
from worldmodel.doctor.ray_cluster import check_started
from worldmodel.doctor.table import describe_check, render_table, summarise
from worldmodel.errors import UserError
from worldmodel.ray_session import read_address

WAIT_SECONDS = 1800.0
"""How long a cluster that starts from nothing may take for its first machine."""
WIDTH = 140
"""Columns of the table in a log."""
Say = Callable[[str], None]


def wait_for_machine(resources: Resources, say: Say) -> None:
    """On a cluster: until a machine is there that a trial fits on. UserError where none comes says why."""
    if not is_on_cluster():
        return
    needs = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
    for check in check_started({kind: amount for kind, amount in needs.items() if amount}, WAIT_SECONDS):
        say(describe_check(check))
        if check.is_failed:
            raise UserError(f"{check.found}; {check.remedy}")


def check_health(options: GridRequest, resources: Resources, cluster: Cluster, wandb: str, say: Say) -> None:
    """On a cluster all checks on all machines, and on several machines a rehearsal; else what takes no time.

    UserError where one failed, after a table that says which and what to do.
    """
    request = Preflight(
        storage=options.place, data=options.data, gpus=resources.gpus_per_worker, wandb=wandb,
        has_rehearsal=cluster.machines > 1,
    )  # fmt: skip
    began = time.monotonic()
    checks = examine(request) if is_on_cluster() else examine_quickly(request)
    tell(checks, time.monotonic() - began, say)
    failures = [check for check in checks if check.is_failed]
    if failures:
        names = ", ".join(dict.fromkeys(check.name for check in failures))
        raise UserError(
            f"the doctor found what trials would fail by ({names}): mend it as the table says, or leave the doctor out "
            "with --skip-doctor"
        )


def tell(checks: Sequence[Check], seconds: float, say: Say) -> None:
    """What stands against the grid: a table where something failed, else a line for each warning."""
    if any(check.is_failed for check in checks):
        console = Console(stderr=True)
        if not console.is_terminal:
            console = Console(stderr=True, width=WIDTH)
        console.print(render_table(checks))
    else:
        for check in checks:
            if check.outcome is Outcome.WARNING:
                say(describe_check(check))
    say(f"doctor: {summarise(checks, seconds)}")


def is_on_cluster() -> bool:
    """Whether Ray was there before this process, as in a job."""
    return bool(read_address())
