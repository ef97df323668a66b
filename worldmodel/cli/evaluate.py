"""`worldmodel evaluate`: a run's checkpoint on the validation games."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Annotated

from worldmodel.cli.runs import RunVerb, choose_checkpoint
from worldmodel.cli.verb import Result, as_result, metavar

SHOWN = (
    "metric/position_mae", "metric/velocity_mae", "metric/damage_mae", "metric/action_acc", "metric/action_ce",
    "metric/action_change_acc", "metric/action_change_acc_both", "metric/action_change_acc_previous",
    "metric/binary_acc", "loss/total",
)  # fmt: skip
"""Metrics of the table; `--json` has all."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(RunVerb):
    """Evaluate a run's best checkpoint on its validation games, beside the baselines that need no training."""

    checkpoint: Annotated[str | None, metavar("best|newest|STEP")] = None
    """Which one; None: the best where one has been named, else the newest."""
    data: Annotated[str, metavar("SRC|BLOCKS")] = ""
    """Games or blocks; empty: those that the run was trained on."""

    def run(self) -> Result:
        from worldmodel.rollout.evaluation import evaluate

        location, _ = self.find()
        return as_result(evaluate(location, choose_checkpoint(location, self.checkpoint), self.data))

    def render(self, result: Result) -> str:
        from rich.console import Console
        from rich.table import Table

        table = Table("metric", *result["rows"])
        for name in SHOWN:
            values = (row.get(name) for row in result["rows"].values())
            table.add_row(name, *("" if value is None else f"{value:.4f}" for value in values))
        page = io.StringIO()
        Console(file=page, width=120).print(table)
        facts = {key: value for key, value in result.items() if key not in ("rows", "notes")}
        return "\n".join([page.getvalue().rstrip(), super().render(facts), *result["notes"]])
