"""What passes between a grid's command, or its submission as a job, and its first training step."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from tune.record import GridRecord
from worldmodel.run.record import RunRecord
from worldmodel.run.timeline import Phase, Timeline, describe_timeline, is_complete

SUBMITTED, RAY, MACHINES, DOCTOR = "job start", "Ray", "waiting for machines", "doctor"
ENCODE, TRIALS = "encode", "trials start"
"""Phases of a grid; a trial's own come behind them."""


def prepend_submission(timeline: Timeline) -> None:
    """Where the grid is a job of Ray's: what passed between its submission and its process's start."""
    submitted = find_submission()
    if submitted is None or not timeline.phases:
        return
    seconds = timeline.phases[0].began.timestamp() - submitted
    phase = Phase(name=SUBMITTED, began=datetime.fromtimestamp(submitted, UTC), seconds=round(max(0.0, seconds), 3))
    timeline.phases.insert(0, phase)


def find_submission() -> float | None:
    """When this process's job was submitted, in seconds since 1970; None: it is no job, or Ray does not say."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    name = job.get("metadata", {}).get("job_submission_id")
    if name is None:
        return None
    from ray.job_submission import JobSubmissionClient

    try:
        started = JobSubmissionClient().get_job_info(name).start_time
    except Exception:  # noqa: BLE001  (a line of a report must not cost a grid: without it the phase is missing)
        return None
    return None if started is None else started / 1000


def join_phases(record: GridRecord, runs: Sequence[RunRecord]) -> list[Phase]:
    """The grid's phases, and behind them those of the trial whose first step came first."""
    begun = [run.phases for run in runs if is_complete(run.phases)]
    if not record.phases or not begun:
        return list(record.phases)
    first = min(begun, key=lambda phases: phases[-1].ended_at)
    timeline = Timeline(record.phases)
    timeline.mark(TRIALS, at=first[0].began.timestamp())
    return [*timeline.phases, *first]


class FirstStep:
    """Says once, as soon as a trial has done its first step, what passed until then."""

    def __init__(self, record: GridRecord, say: Callable[[str], None]) -> None:
        self._record, self._say, self._is_said = record, say, False

    def look(self, runs: Sequence[RunRecord]) -> None:
        """Look at the runs that have begun."""
        if self._is_said or not self._record.phases:
            return
        phases = join_phases(self._record, runs)
        if is_complete(phases):
            self._is_said = True
            self._say(describe_timeline(phases))
