"""Who does more work per CPU-second: contestants take turns (A B A B), so that a noisy machine slows all alike."""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from tests.benchmarks.row import Goal, Row


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one turn of one contestant took."""

    work: float
    """Units done, such as target frames."""
    cpu_seconds: float
    """Of this process, all its threads, and of children that ended within the turn."""
    wall_seconds: float

    @property
    def rate(self) -> float:
        """Units per CPU-second."""
        return self.work / self.cpu_seconds


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One way to do the work."""

    name: str
    run: Callable[[], float | Round]
    """Does one turn's work and returns how many units that was; or the whole round, where another process measured."""


Rounds = Mapping[str, Sequence[Round]]


def race(contestants: Sequence[Contestant], rounds: int) -> dict[str, list[Round]]:
    """Let every contestant do its work once unmeasured, then take `rounds` turns each, one after another."""
    found: dict[str, list[Round]] = {contestant.name: [] for contestant in contestants}
    for contestant in contestants:
        contestant.run()
    for _ in range(rounds):
        for contestant in contestants:
            found[contestant.name].append(take_turn(contestant.run))
    return found


def take_turn(run: Callable[[], float | Round]) -> Round:
    """Measure one turn. Garbage of the turn before is collected first, outside of it."""
    gc.collect()
    cpu, wall = _read_cpu_seconds(), time.perf_counter()
    done = run()
    if isinstance(done, Round):
        return done
    return Round(work=done, cpu_seconds=_read_cpu_seconds() - cpu, wall_seconds=time.perf_counter() - wall)


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """What of a race is shown, in one row."""

    area: str
    unit: str
    measured: str
    against: str | None = None
    goal: Goal | None = None
    note: str = ""


def compare(rounds: Rounds, pairing: Pairing) -> Row:
    """One row: the median rate of one contestant, and the median over rounds of its ratio to another."""
    mine = rounds[pairing.measured]
    theirs = rounds[pairing.against] if pairing.against else None
    ratios = [a.rate / b.rate for a, b in zip(mine, theirs, strict=True)] if theirs else []
    return Row(
        area=pairing.area,
        unit=f"{pairing.unit} per CPU-s",
        measured=pairing.measured,
        value=median(done.rate for done in mine),
        against=pairing.against,
        value_against=median(done.rate for done in theirs) if theirs else None,
        ratio=median(ratios) if ratios else None,
        ratio_range=(min(ratios), max(ratios)) if ratios else None,
        cpu_seconds=sum(done.cpu_seconds for done in mine) / len(mine),
        wall_seconds=sum(done.wall_seconds for done in mine) / len(mine),
        goal=pairing.goal,
        note=pairing.note,
    )


def _read_cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
