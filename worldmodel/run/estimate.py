"""How long a run will take, and what it will cost, from the pace of its first steps."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

from worldmodel.experiment.config import TrainingConfig
from worldmodel.features.plan import Plan, SampleShape
from worldmodel.run.record import RunRecord, State
from worldmodel.run.reporter import format_duration, format_error, format_usd
from worldmodel.training.coherence import COHERENCE
from worldmodel.training.interval import Interval
from worldmodel.training.starts import WARM_UP

WARMUP_STEPS = 5
"""First steps that are not measured: they make caches, compile and allocate."""
MEASURE_STEPS = 5
MEASURE_SECONDS = 4.0
"""Steps and seconds behind the warm-up that an estimate needs at least."""
FORWARD_SHARE = 1 / 3
"""A forward pass is about a third of a training step's work, for each of the forward's matrix products has two in the
backward pass (Kaplan et al. 2020, https://arxiv.org/abs/2001.08361, section 2.1: 2N and 4N operations a token)."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """All that a run has to do, as its plan counts it."""

    total_steps: int
    """Optimizer steps of the whole run."""
    steps_per_epoch: int
    epoch_targets: int
    """Frames that are a target in an epoch."""
    validation_targets: int
    """Frames that are predicted in a validation."""
    rollout_frames: int = 0
    """Frames that its rollouts see and make besides."""

    @classmethod
    def of(cls, plan: Plan, total_steps: int, validation_targets: int, rollout_frames: int = 0) -> Work:
        """That of a run in the order of `plan`."""
        return cls(
            total_steps=total_steps,
            steps_per_epoch=plan.steps_per_epoch,
            epoch_targets=plan.epoch_targets,
            validation_targets=validation_targets,
            rollout_frames=rollout_frames,
        )

    @property
    def targets_per_step(self) -> float:
        """Mean targets of a step."""
        return self.epoch_targets / self.steps_per_epoch

    def count_validations(self, step: int) -> int:
        """Validations that a run has before it which has done `step` steps: one behind each epoch and the last step."""
        if step >= self.total_steps:
            return 0
        is_cut = self.total_steps % self.steps_per_epoch != 0
        return self.total_steps // self.steps_per_epoch - step // self.steps_per_epoch + is_cut


def count_predicted(games: Sequence[int], shape: SampleShape) -> int:
    """Frames that a validation of games with so many frames each predicts: those behind the first windows' context."""
    windows = replace(shape, mode="window")
    return sum(windows.count_targets(frames) for frames in games)


def count_rolled(training: TrainingConfig) -> int:
    """Frames that a validation's rollouts see and make. A frame made alone costs more than one in a sequence: the
    estimate counts it as one."""
    return training.rollout_starts * (WARM_UP + COHERENCE)


def estimate_left(work: Work, step: int, step_seconds: float, validation_seconds: float | None = None) -> float:
    """Seconds that a run needs from step `step` to its end.

    `validation_seconds`: of one validation; None: `FORWARD_SHARE` of what its targets would take in training.
    """
    if validation_seconds is None:
        frames = work.validation_targets + work.rollout_frames
        validation_seconds = FORWARD_SHARE * step_seconds * frames / work.targets_per_step
    return (work.total_steps - step) * step_seconds + work.count_validations(step) * validation_seconds


class Pace:
    """Seconds of a step, from a run's intervals, its first steps left out."""

    def __init__(
        self, steps: int = MEASURE_STEPS, seconds: float = MEASURE_SECONDS, warmup_steps: int = WARMUP_STEPS
    ) -> None:
        """`steps`, `seconds`: what is measured at least; `warmup_steps`: what is left out at the beginning."""
        self._least_steps, self._least_seconds, self._warmup = steps, seconds, warmup_steps
        self._seen = self._steps = 0
        self._seconds = 0.0

    def add(self, steps: int, step_seconds: float) -> None:
        """Take in an interval of so many steps with its mean seconds of a step."""
        if self._seen >= self._warmup:
            self._steps += steps
            self._seconds += steps * step_seconds
        self._seen += steps

    @property
    def step_seconds(self) -> float | None:
        """Mean seconds of a step; None while too little was measured."""
        is_enough = self._steps >= max(1, self._least_steps) and self._seconds >= self._least_seconds
        return self._seconds / self._steps if is_enough else None


class Estimator:
    """Makes a run's estimate, once, as soon as its intervals allow it."""

    def __init__(self, work: Work, first_step: int, pace: Pace | None = None) -> None:
        """`first_step`: steps that were done when this attempt began."""
        self._work, self._step, self._pace = work, first_step, pace or Pace()
        self._is_done = False

    def add(self, interval: Interval, elapsed: float) -> float | None:
        """Seconds of the whole attempt, where this interval is the one that lets them be told.

        `elapsed`: seconds since the attempt's start, at the interval's end.
        """
        self._pace.add(interval.step - self._step, interval.step_seconds)
        self._step = interval.step
        pace = self._pace.step_seconds
        if self._is_done or pace is None:
            return None
        self._is_done = True
        # An interval is closed before its last step's epoch is validated: that validation is still to come.
        return elapsed + estimate_left(self._work, interval.step - 1, pace) - pace


def describe_estimate(record: RunRecord) -> str:
    """Estimate, actual and error in a line; the error only where the run has done all of its steps."""
    if record.estimate is None:
        return "none: it ended before its pace was known"
    told = describe_spent(record.estimate.seconds, record.estimate.cost_usd)
    if record.state is not State.FINISHED:
        return f"{told} for this attempt, which {'ended early' if record.ended else 'goes on'}"
    seconds = record.seconds.total - record.seconds_before
    cost = None if record.price_per_hour_usd is None else record.price_per_hour_usd * seconds / 3600
    attempt = " (this attempt)" if record.attempts else ""
    error = format_error(record.estimate.seconds, seconds)
    return f"{told}, took {describe_spent(seconds, cost)}{attempt}: {error}"


def describe_spent(seconds: float, cost_usd: float | None) -> str:
    """Time, and dollars where they are known, for people."""
    return format_duration(seconds) + ("" if cost_usd is None else f", {format_usd(cost_usd)}")


@dataclass(frozen=True, kw_only=True)
class GridEstimate:
    """What a grid will have taken at its end."""

    seconds: float
    """Wall clock, with trials side by side."""
    cost_usd: float | None
    """Dollars of all trials; None: a price is unknown."""
    known_trials: int
    """Trials that it rests on: they have finished, or have an estimate; those to come are taken to be like these."""


def estimate_grid(records: Sequence[RunRecord], trials: int, at_once: int) -> GridEstimate | None:
    """What a grid of `trials` runs takes, `at_once` side by side, from those of its runs that are known so far.

    `records`: the runs that have begun, in the order of the grid; one that was cut short counts as it ended. None where
    no pace is known yet.
    """
    is_ended = [record.state not in (State.CREATED, State.RUNNING) for record in records]
    cut = [r for r, ended in zip(records, is_ended, strict=True) if ended and r.state is not State.FINISHED]
    known = [r for r in records if r.state is State.FINISHED or (r not in cut and r.estimate is not None)]
    if not known:
        return None
    missing = trials - len(known) - len(cut)
    seconds = [_promise_seconds(record) for record in known]
    costs = [record.price(_promise_seconds(record)) for record in known]
    wasted = [record.cost_usd for record in cut]
    mean = sum(seconds) / len(known)
    return GridEstimate(
        seconds=pack([*seconds, *(record.seconds.total for record in cut), *[mean] * missing], at_once),
        cost_usd=_add(costs, wasted, missing),
        known_trials=len(known),
    )


def _promise_seconds(record: RunRecord) -> float:
    promised = None if record.state is State.FINISHED else record.seconds_promised
    return record.seconds.total if promised is None else promised


def _add(costs: Sequence[float | None], wasted: Sequence[float | None], missing: int) -> float | None:
    """Dollars of runs, of those that were cut short, and of `missing` more like the first."""
    priced, lost = ([cost for cost in group if cost is not None] for group in (costs, wasted))
    if len(priced) < len(costs) or len(lost) < len(wasted):
        return None
    return sum(priced) * (1 + missing / len(priced)) + sum(lost)


def pack(seconds: Sequence[float], lanes: int) -> float:
    """When the last of some jobs ends, which begin one after another, each as soon as a lane is free."""
    free = [0.0] * max(1, lanes)
    for took in seconds:
        heapq.heappush(free, heapq.heappop(free) + took)
    return max(free)
