"""`worldmodel plan`: what an experiment would take, before anything is spent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from worldmodel.cli.train import ExperimentVerb, introduce
from worldmodel.cli.verb import Result, as_result, draw, metavar, report

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 100
"""Columns where no terminal says how many it has."""
PROBE_SECONDS = 10.0
"""Seconds of training by which a step is measured."""


@dataclass(frozen=True, kw_only=True)
class Plan(ExperimentVerb):
    """Predict frames, steps, hours and dollars of an experiment: measured here by some seconds of training; on other
    GPUs by the pace of a finished run under --storage, else by a roofline."""

    opening: ClassVar[str] = "counting games and measuring steps"

    trials: Annotated[int, metavar("N")] = 1
    """Runs of a grid, all like this one."""
    budget_usd: Annotated[float | None, metavar("DOLLARS")] = None
    """Dollars that may be spent; default: any amount."""

    def run(self) -> Result:
        from worldmodel.run.budget import Budget
        from worldmodel.run.plan_costs import PlanRequest, plan_costs

        resolved = self.read_experiment()
        budget = Budget(usd=self.budget_usd)
        request = PlanRequest(config=resolved.config, trials=self.trials, budget=budget, probe_seconds=PROBE_SECONDS)
        found = plan_costs(request, report)
        report(introduce(resolved))
        return {**as_result(found), "budget_usd": self.budget_usd}

    def render(self, result: Result) -> str:
        notes = [f"note: {note}" for note in result["assumptions"]]
        if result["compute"][0]["usd_per_hour"] is None:
            notes.append(f"note: price of this machine unknown: {result['price_note']}")
        prices = [_tabulate_dollars(result), ""] if any(row["usd_per_hour"] for row in result["compute"]) else []
        work, keeping = super().render(_describe_work(result)), _describe_keeping(result)
        return draw(work, "", _tabulate_hours(result), "", *prices, keeping, "", *notes, width=WIDTH)


def _describe_work(result: Result) -> dict[str, str]:
    from worldmodel.run.reporter import format_count

    work, probe = result["work"], result["probe"]
    about = "" if result["is_exact"] else "about "
    per_second = work["epoch_targets"] / work["steps_per_epoch"] / probe["step_seconds"]
    return {
        "data": f"{about}{result['games']:,} games, {result['frames']:,} frames",
        "epoch": f"{about}{work['epoch_targets']:,} targets in {work['steps_per_epoch']:,} steps; "
        f"{work['validation_targets']:,} are validated",
        "run": f"{about}{work['total_steps']:,} steps, {probe['parameters']:,} parameters",
        "here": f"{1000 * probe['step_seconds']:.1f} ms/step ({probe['steps']} measured), "
        f"{format_count(per_second)} targets/s",
    }


def _tabulate_hours(result: Result) -> Table:
    """A row for this machine, and one for each kind of GPU."""
    from rich.table import Table

    from worldmodel.run.reporter import format_duration

    runs = [1, *([result["trials"]] if result["trials"] > 1 else [])]
    table = Table("hours on", *map(_count_runs, runs), "how it is known", box=None, pad_edge=False)
    for row in {row["device"]: row for row in result["compute"]}.values():
        hours = [row["hours"], row["grid_hours"]][: len(runs)]
        table.add_row(
            row["device"], *(_show(each, lambda h: format_duration(3600 * h)) for each in hours), row["basis"]
        )
    return table


def _tabulate_dollars(result: Result) -> Table:
    """A row for each price that is known."""
    from rich.table import Table

    from worldmodel.run.reporter import format_usd

    limit, runs = result["budget_usd"], [1, *([result["trials"]] if result["trials"] > 1 else [])]
    head = ["dollars at", "GPU", "an hour", "price of", *map(_count_runs, runs)]
    table = Table(*head, *([f"${limit:g} pays for"] if limit else []), box=None, pad_edge=False)
    for row in result["compute"]:
        if row["usd_per_hour"] is not None:
            dollars = [row["usd_per_hour"], row["usd"], row["grid_usd"]][: 1 + len(runs)]
            hour, *whole = (_show(each, format_usd) for each in dollars)
            reach = [_describe_reach(row["affordable_trials"], result["trials"])] if limit else []
            table.add_row(_name(row["provider"]), row["device"], hour, row["price_date"], *whole, *reach)
    return table


def _count_runs(count: int) -> str:
    return "a run" if count == 1 else f"{count} runs"


def _name(provider: str) -> str:
    from worldmodel.run.prices import CLOUDS

    return CLOUDS.get(provider, provider)


def _describe_reach(trials: float | None, wished: int) -> str:
    if trials is None:
        return "unknown"
    if trials < 1:
        return f"{trials:.0%} of a run"
    if wished > 1 and trials >= wished:
        return "all of them"
    return f"{trials:,.0f} runs" if trials >= 10 else f"{trials:.1f} runs"


def _describe_keeping(result: Result) -> str:
    """What to keep, in a line, and a line of the providers that say what it costs."""
    from worldmodel.run.reporter import format_usd

    stored = result["block_bytes"] + result["trials"] * result["checkpoints"] * result["checkpoint_bytes"]
    title = (
        f"keeping {_size(stored)} (blocks {_size(result['block_bytes'])}, {result['checkpoints']} checkpoints a run of "
        f"{_size(result['checkpoint_bytes'])}), and fetching one of each run:"
    )
    known = [row for row in result["keeping"] if row["storage_usd_month"] is not None or row["egress_usd"] is not None]
    lines = [
        f"  {_name(row['provider'])}: {_show(row['storage_usd_month'], format_usd)} a month, "
        f"{_show(row['egress_usd'], format_usd)} to fetch"
        for row in known
    ]
    unknown = [_name(row["provider"]) for row in result["keeping"] if row not in known]
    return "\n".join([title, *lines, *([f"  prices unknown: {', '.join(unknown)}"] if unknown or not known else [])])


def _show(value: float | None, render: Callable[[float], str]) -> str:
    return "unknown" if value is None else render(value)


def _size(count: int) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"
