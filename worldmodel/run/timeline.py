"""What passes between a command and its first training step, phase by phase."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from worldmodel.training.interval import Interval
    from worldmodel.training.loop import Hooks

PROGRAM, DATA, CHECKS = "program start", "data", "checks"
"""Phases of a run before it has workers."""
WORKER, MODEL, FIRST_STEP = "worker start", "model and frames", "first step"
"""Phases of its first worker; the last ends with the first optimizer step."""


SHOWN_SECONDS = 0.05
"""Shorter phases are left out of a line."""


class Phase(BaseModel):
    """One part of the way, from the end of the part before to its own end."""

    model_config = ConfigDict(frozen=True)

    name: str
    began: datetime
    """UTC."""
    seconds: float

    @property
    def ended_at(self) -> float:
        """Its end, in seconds since 1970."""
        return self.began.timestamp() + self.seconds


class Timeline:
    """Phases one after the other; each mark ends one, by the wall clock, for the next may be in another process."""

    def __init__(self, phases: Sequence[Phase] = (), *, since: float | None = None) -> None:
        """`since`: where it begins, in seconds since 1970; None: at the end of the last of `phases`, or now."""
        self.phases = list(phases)
        if since is None:
            since = self.phases[-1].ended_at if self.phases else time.time()
        self._since = since

    def mark(self, name: str, at: float | None = None) -> None:
        """End the phase under way and name it. `at`: when it ended; None: now."""
        end = max(self._since, time.time() if at is None else at)
        began = datetime.fromtimestamp(self._since, UTC)
        self.phases.append(Phase(name=name, began=began, seconds=round(end - self._since, 3)))
        self._since = end

    @property
    def seconds(self) -> float:
        """All phases together."""
        return sum(phase.seconds for phase in self.phases)


def begin_timeline(since: float | None) -> Timeline:
    """That of a command. `since`: when its process began, in seconds since 1970; None: now."""
    timeline = Timeline(since=since)
    if since is not None:
        timeline.mark(PROGRAM)
    return timeline


def continue_in_worker(phases: Sequence[Phase]) -> Timeline:
    """What the first worker adds to: the phases before it, and its own start. One that was restarted begins again."""
    own = (WORKER, MODEL, FIRST_STEP)
    timeline = Timeline([phase for phase in phases if phase.name not in own])
    timeline.mark(WORKER)
    return timeline


def is_complete(phases: Sequence[Phase]) -> bool:
    """Whether they reach the first step."""
    return bool(phases) and phases[-1].name == FIRST_STEP


def describe_timeline(phases: Sequence[Phase]) -> str:
    """The phases in a line, those that took no time left out: "first training step after 5.3 s: data 0.4 s, ..."."""
    total = sum(phase.seconds for phase in phases)
    parts = ", ".join(f"{phase.name} {phase.seconds:.1f} s" for phase in phases if phase.seconds >= SHOWN_SECONDS)
    goal = f"first training step after {total:.1f} s" if is_complete(phases) else f"no training step yet, {total:.1f} s"
    return f"{goal}: {parts}"


def note_first_step(hooks: Hooks, timeline: Timeline, keep: Callable[[list[Phase]], None]) -> Hooks:
    """The hooks, with the first step's end marked as soon as the loop is heard of after it; `keep` takes the phases.

    The loop asks whether to stop before every step (several workers: before every few), so its first question after
    `on_interval` or a step tells; nothing is added to a step.
    """
    asked = 0

    def finish() -> None:
        if not is_complete(timeline.phases):
            timeline.mark(FIRST_STEP)
            keep(timeline.phases)

    def ask() -> str | None:
        nonlocal asked
        asked += 1
        if asked == 2:
            finish()
        return hooks.stop_reason()

    def note_interval(interval: Interval, values: dict[str, float]) -> None:
        finish()
        hooks.on_interval(interval, values)

    return replace(hooks, stop_reason=ask, on_interval=note_interval)
