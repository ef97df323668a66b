"""What a grid may take and will take: its budget, its estimate, its price."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from tune.record import GridRecord
from tune.trials import Resources
from worldmodel.errors import UserError
from worldmodel.training.budget import Budget
from worldmodel.training.device import describe_device
from worldmodel.training.estimate import estimate_grid
from worldmodel.training.prices import HOUR, find_price, read_prices
from worldmodel.training.record import RunRecord, State
from worldmodel.training.reporter import format_duration, format_usd

ASK_SECONDS = 900.0
"""Longest wait for a machine with a GPU, which a cluster may have to start first."""
Judge = Callable[[float, Sequence[RunRecord]], str | None]


def check_price(budget: Budget, resources: Resources, older: GridRecord | None) -> None:
    """UserError where dollars are limited and the price is unknown, or earlier attempts have used the budget up."""
    if budget.usd is not None:
        price = find_price(_ask_device(resources), read_prices())
        if price.usd_per_hour is None:
            raise UserError(f"--budget-usd {budget.usd:g} cannot be kept: the price is unknown, {price.origin}")
    if older is None:
        return
    if reason := budget.find_end(older.seconds, older.cost_usd):
        larger = budget.propose(older.seconds, older.cost_usd).apply_to("")
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


def judge_costs(budget: Budget, record: GridRecord, say: Callable[[str], None]) -> Judge:
    """What a grid's watch asks: keeps the record's costs, says once what the grid will take, and why it must stop."""

    def judge(seconds: float, runs: Sequence[RunRecord]) -> str | None:
        record.cost_usd = sum_costs(runs)
        if record.estimated_seconds is None and _note_estimate(record, runs):
            say(f"estimate: {describe(record.estimated_seconds, record.estimated_cost_usd)} for the whole grid")
        reason = budget.find_end(seconds, record.cost_usd)
        if reason:
            total = record.estimated_seconds or seconds
            record.resume_command = budget.propose(total, record.estimated_cost_usd).apply_to(record.resume_command)
        return reason

    return judge


def _note_estimate(record: GridRecord, runs: Sequence[RunRecord]) -> bool:
    """Whether the first trials side by side are known well enough to estimate the grid; then the record has it."""
    trials = len(record.trials)
    found = estimate_grid(runs, trials, record.at_once)
    if found is None or found.known_trials < min(record.at_once, trials):
        return False
    record.estimated_seconds, record.estimated_cost_usd = found.seconds, found.cost_usd
    return True


def sum_costs(runs: Sequence[RunRecord]) -> float | None:
    """Dollars of all runs; None where one is unknown."""
    costs = [run.cost_usd for run in runs]
    known = [cost for cost in costs if cost is not None]
    return sum(known) if known and len(known) == len(costs) else None


def describe_costs(record: GridRecord) -> str:
    """Estimate, actual and error in a line."""
    took = describe(record.seconds, record.cost_usd)
    price = "" if record.cost_usd is not None else " (price unknown: set WORLDMODEL_PRICE_PER_HOUR)"
    if record.estimated_seconds is None or not record.seconds:
        return f"took {took}{price}"
    estimate = describe(record.estimated_seconds, record.estimated_cost_usd)
    if record.state is not State.FINISHED:
        return f"estimated {estimate} for all of it, took {took}{price} so far"
    error = 100 * (record.estimated_seconds / record.seconds - 1)
    return f"estimated {estimate}, took {took}{price}: {error:+.0f} %"


def describe(seconds: float | None, cost_usd: float | None) -> str:
    """Time, and dollars where they are known."""
    return format_duration(seconds or 0) + ("" if cost_usd is None else f", {format_usd(cost_usd)}")
