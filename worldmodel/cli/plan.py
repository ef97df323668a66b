"""`worldmodel plan`: what an experiment would take, before anything is spent."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from worldmodel.cli.train import ExperimentVerb, introduce
from worldmodel.cli.verb import Result, as_result, metavar, report

PROBE_SECONDS = 10.0
"""Seconds of training by which a step is measured."""


@dataclass(frozen=True, kw_only=True)
class Plan(ExperimentVerb):
    """Predict frames, steps, hours and dollars of an experiment: measured here by some seconds of training; on other
    GPUs by the pace of a finished run under --storage, else by a roofline."""

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
        parts = [super().render(_describe_work(result)), _render_compute(result), _render_keeping(result)]
        notes = [f"note: {note}" for note in result["assumptions"]]
        if result["compute"][0]["usd_per_hour"] is None:
            notes.append(f"note: price of this machine unknown: {result['price_note']}")
        return "\n\n".join([*parts, "\n".join(notes)])


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


def _render_compute(result: Result) -> str:
    from worldmodel.run.reporter import format_duration

    is_grid, limit = result["trials"] > 1, result["budget_usd"]
    head = ["machine", "price of", "$/hour", "a run", "$"]
    head += [f"{result['trials']} runs", "$"] if is_grid else []
    head += [f"${limit:g} pays for"] if limit is not None else []
    rows = []
    for row in result["compute"]:
        price = f"{row['provider']}, {row['price_date']}" if row["provider"] else ""
        cells = [row["device"], price, _dollars(row["usd_per_hour"]), _show(row["hours"], format_duration)]
        cells.append(_dollars(row["usd"]))
        if is_grid:
            cells += [_show(row["grid_hours"], format_duration), _dollars(row["grid_usd"])]
        if limit is not None:
            cells.append(_describe_reach(row["affordable_trials"], result["trials"]))
        rows.append([*cells, row["basis"]])
    return _render_table([*head, "hours"], rows)


def _describe_reach(trials: float | None, wished: int) -> str:
    if trials is None:
        return "unknown"
    if trials < 1:
        return f"{trials:.0%} of a run"
    if wished > 1 and trials >= wished:
        return "all of them"
    return f"{trials:,.0f} runs" if trials >= 10 else f"{trials:.1f} runs"


def _render_keeping(result: Result) -> str:
    stored = result["block_bytes"] + result["trials"] * result["checkpoints"] * result["checkpoint_bytes"]
    title = (
        f"keeping {_size(stored)} (blocks {_size(result['block_bytes'])}, {result['checkpoints']} checkpoints a run of "
        f"{_size(result['checkpoint_bytes'])}); fetching one of each run"
    )
    rows = [[r["provider"], _dollars(r["storage_usd_month"]), _dollars(r["egress_usd"])] for r in result["keeping"]]
    if all(row[1:] == ["unknown", "unknown"] for row in rows):
        return f"{title}: prices unknown"
    return f"{title}\n{_render_table(['provider', '$/month', '$ to fetch'], rows)}"


def _render_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    from rich.console import Console
    from rich.table import Table

    table = Table(*head)
    for row in rows:
        table.add_row(*row)
    page = io.StringIO()
    Console(file=page, width=160).print(table)
    return page.getvalue().rstrip()


def _show(hours: float | None, render: Any) -> str:
    return "unknown" if hours is None else str(render(3600 * hours))


def _dollars(value: float | None) -> str:
    from worldmodel.run.reporter import format_usd

    return "unknown" if value is None else format_usd(value)


def _size(count: int) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"
