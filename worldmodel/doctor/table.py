"""The preflight for people: a line per check, those that stand the same on all machines once, a remedy where needed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from worldmodel.doctor.check import Check, Outcome
from worldmodel.doctor.machines import count_machines

STYLES = {Outcome.OK: "green", Outcome.WARNING: "yellow", Outcome.FAILED: "bold red", Outcome.SKIPPED: "dim"}
MANY = 5
"""Machines from which their good lines are shown as one."""


def render_table(checks: Sequence[Check]) -> Table:
    """One table; a remedy stands under what was found."""
    table = Table("check", "machine", "outcome", "found, and what to do", expand=False)
    for check in _merge(checks):
        found = Text(check.found)
        if check.remedy and check.outcome in (Outcome.WARNING, Outcome.FAILED):
            found.append(f"\n→ {check.remedy}", style="bold")
        table.add_row(check.name, check.machine, Text(check.outcome.value, style=STYLES[check.outcome]), found)
    return table


def _merge(checks: Iterable[Check]) -> list[Check]:
    """Lines of many machines that are in order become one."""
    checks = list(checks)
    groups: dict[tuple[str, Outcome], list[Check]] = defaultdict(list)
    for check in checks:
        if check.machine and check.outcome in (Outcome.OK, Outcome.SKIPPED):
            groups[check.name, check.outcome].append(check)
    shown, merged = set(), []
    for check in checks:
        group = groups.get((check.name, check.outcome), [])
        if not check.machine or len({c.machine for c in group}) < MANY:
            merged.append(check)
        elif (check.name, check.outcome) not in shown:
            shown.add((check.name, check.outcome))
            where = count_machines(len({c.machine for c in group}))
            merged.append(Check(name=check.name, outcome=check.outcome, found=check.found, machine=where))
    return merged


def summarise(checks: Sequence[Check], seconds: float) -> str:
    """The preflight in a line."""
    counts = {outcome: sum(check.outcome is outcome for check in checks) for outcome in Outcome}
    parts = [f"{counts[Outcome.OK]} ok"]
    parts += [f"{counts[o]} {o.value}" for o in (Outcome.WARNING, Outcome.FAILED, Outcome.SKIPPED) if counts[o]]
    return f"{len(checks)} checks in {seconds:.1f} s: {', '.join(parts)}"


def describe_check(check: Check) -> str:
    """A check in a line of a log."""
    where = f" ({check.machine})" if check.machine else ""
    remedy = f"; {check.remedy}" if check.remedy else ""
    return f"{check.outcome.value}: {check.name}{where}: {check.found}{remedy}"


def to_rows(checks: Iterable[Check]) -> list[dict[str, Any]]:
    """The checks as plain values."""
    return [{**asdict(check), "outcome": check.outcome.value} for check in checks]
