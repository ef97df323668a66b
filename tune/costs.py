"""What a grid may take and will take: its budget, its estimate, its price."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tune.record import GridRecord
from tune.resources import Resources
from worldmodel.errors import UserError
from worldmodel.machine.device import describe_device
from worldmodel.run.budget import Budget
from worldmodel.run.estimate import describe_spent, estimate_grid
from worldmodel.run.prices import HOUR, find_price, read_prices
from worldmodel.run.record import RunRecord, State
from worldmodel.run.reporter import format_error

ASK_SECONDS = 900.0
"""Longest wait for a machine with a GPU, which a cluster may have to start first."""


def check_price(budget: Budget, resources: Resources, older: GridRecord | None) -> None:
    """UserError where dollars are limited and the price is unknown, or earlier attempts have used the budget up."""
    if budget.usd is not None:
        price = find_price(_ask_device(resources), read_prices())
        if price.usd_per_hour is None:
            raise UserError(f"--budget-usd {budget.usd:g} cannot be kept: the price is unknown, {price.origin}")
    if older is None:
        return
    if reason := budget.find_end(older.seconds, older.cost_usd):
        larger = propose(budget, older).apply_to("")
        raise UserError(f"{reason} by earlier attempts: ask for more, as {larger.strip()}")


def _ask_device(resources: Resources) -> dict[str, Any]:
    """The device that trials compute on: a GPU of the cluster's describes itself, unless the price is given anyway."""
    if not resources.gpus_per_worker or os.environ.get(HOUR):
        return describe_device()
    import ray

    describe = ray.remote(num_cpus=0, num_gpus=resources.gpus_per_worker)(describe_device)
    try:
        found: dict[str, Any] = ray.get(describe.remote(), timeout=ASK_SECONDS)
    except ray.exceptions.GetTimeoutError:
        raise UserError(
            f"no GPU has become free in {ASK_SECONDS:.0f} s to say what it is, and without that its price is unknown: "
            f"set {HOUR} to dollars per hour, or try again"
        ) from None
    return found


@dataclass(kw_only=True)
class GridCosts:
    """Keeps a grid's record up to date with what it costs and will cost.

    Dollars are those of all that its trials may hold, for as long as the grid runs: a GPU, or a part of a machine, that
    waits for the last trial is on the bill too.
    """

    budget: Budget
    record: GridRecord
    say: Callable[[str], None]
    _seconds_before: float = field(init=False)
    _cost_before: float | None = field(init=False)

    def __post_init__(self) -> None:
        self._seconds_before, self._cost_before = self.record.seconds, self.record.cost_usd

    def judge(self, seconds: float, runs: Sequence[RunRecord]) -> str | None:
        """Why the grid must stop after so many seconds over all attempts; None: it may go on."""
        self.note(seconds, runs)
        if self.record.estimated_seconds is None and self._note_estimate(runs):
            told = describe_spent(self.record.estimated_seconds or 0, self.record.estimated_cost_usd)
            self.say(f"estimate: {told} for the whole grid")
        reason = self.budget.find_end(seconds, self.record.cost_usd)
        if reason:
            self.record.resume_command = propose(self.budget, self.record).apply_to(self.record.resume_command)
        return reason

    def note(self, seconds: float, runs: Sequence[RunRecord]) -> None:
        """Take in what has been spent."""
        hour = self._price_hour(runs)
        before = self._price_earlier(hour)
        is_known = hour is not None and before is not None
        spent = (hour or 0.0) * (seconds - self._seconds_before) / 3600
        self.record.cost_usd = (before or 0.0) + spent if is_known else None

    def _price_earlier(self, hour: float | None) -> float | None:
        """Dollars of earlier attempts; None: unknown. Where dollars are limited an unknown bill would never reach the
        limit, so their time then counts at the present price."""
        if self._cost_before is not None or not self._seconds_before:
            return self._cost_before or 0.0
        return None if hour is None or self.budget.usd is None else hour * self._seconds_before / 3600

    def _price_hour(self, runs: Sequence[RunRecord]) -> float | None:
        """Dollars per hour of all trials that may run at once, from the newest run's price."""
        if not runs:
            return None
        price = max(runs, key=lambda run: run.updated).price_per_hour_usd
        return None if price is None else price * min(self.record.at_once, len(self.record.trials))

    def _note_estimate(self, runs: Sequence[RunRecord]) -> bool:
        """Whether the first trials side by side are known well enough to estimate the grid; then the record has it."""
        trials, hour = len(self.record.trials), self._price_hour(runs)
        found = estimate_grid(runs, trials, self.record.at_once)
        if found is None or found.known_trials < min(self.record.at_once, trials):
            return False
        self.record.estimated_seconds = found.seconds
        self.record.estimated_cost_usd = None if hour is None else hour * found.seconds / 3600
        return True


def propose(budget: Budget, record: GridRecord) -> Budget:
    """A larger budget, under which a grid would come to its end; twice what it took, where nobody knows its end yet."""
    seconds = max(record.estimated_seconds or 2 * record.seconds, record.seconds)
    costs = [cost for cost in (record.estimated_cost_usd, record.cost_usd) if cost is not None]
    if record.estimated_seconds is None:
        costs = [2 * cost for cost in costs]
    return budget.propose(seconds, max(costs, default=None))


def describe_costs(record: GridRecord) -> str:
    """Estimate, actual and error in a line."""
    took = describe_spent(record.seconds, record.cost_usd)
    price = "" if record.cost_usd is not None else "; price unknown: set WORLDMODEL_PRICE_PER_HOUR"
    if record.estimated_seconds is None or not record.seconds:
        return f"took {took}{price}"
    estimate = describe_spent(record.estimated_seconds, record.estimated_cost_usd)
    if record.state is not State.FINISHED:
        return f"estimated {estimate} for all of it, took {took} so far{price}"
    return f"estimated {estimate}, took {took}: {format_error(record.estimated_seconds, record.seconds)}{price}"
