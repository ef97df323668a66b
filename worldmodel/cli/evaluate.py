"""`worldmodel evaluate`: a run's checkpoint on the validation and the test games."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from worldmodel.cli.runs import RunVerb, choose_checkpoint
from worldmodel.cli.verb import Result, Verb, as_result, draw, metavar
from worldmodel.progress import showing_progress

SHOWN = (
    "metric/position_mae", "metric/position_mae_no_teleports",
    "metric/velocity_mae", "metric/damage_mae", "metric/action_acc", "metric/action_ce",
    "metric/action_change_acc", "metric/action_change_acc_both", "metric/action_change_acc_previous",
    "metric/binary_acc", "loss/total",
)  # fmt: skip
"""Metrics of the table; `--json` has all."""
HIDDEN = {"most frequent next action": ("metric/action_acc", "metric/action_ce")}
"""Row to metrics that would mislead: it predicts a change in every frame."""
NO_FACTS = ("rows", "notes", "by_game", "game_names", "test", "games", "targets")
"""Keys of an evaluation that the tables show, or that are for machines."""
SHOWN_OF_ROLLOUTS = (
    "summary_pos_mae", "summary_vel_mae", "summary_action_acc", "summary_change_acc", "summary_percent_mae",
    "summary_stocks_mae", "summary_possible",
)  # fmt: skip
"""Metrics of the rollouts' table, each for every horizon."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(RunVerb):
    """Evaluate a run's best checkpoint on its validation and test games, beside baselines that need no training."""

    opening: ClassVar[str] = "opening the model and its games"

    checkpoint: Annotated[str | None, metavar("best|newest|STEP")] = None
    """Which one; default: the best where one has been named, else the newest."""
    data: Annotated[str, metavar("SRC|BLOCKS")] = ""
    """Games or blocks; default: those that the run was trained on."""
    rollout: bool = False
    """Measure rollouts instead, in which the model feeds itself: how far they stray, frame by frame."""
    starts: Annotated[int, metavar("N")] = 300
    """Rollouts, with --rollout."""
    frames: Annotated[int, metavar("N")] = 300
    """Frames of each rollout, with --rollout; 60 are a second, and 20 are enough for the first decision."""
    temperature: Annotated[float, metavar("T")] = 0.0
    """With --rollout, 0: the most likely actions; above 0, actions are drawn."""
    seed: Annotated[int, metavar("N")] = 0
    """Of what is drawn, with --rollout."""
    device: Annotated[str, metavar("cpu|cuda")] = ""
    """Where the model runs, with --rollout; default: the run's own device, or what there is."""

    def run(self) -> Result:
        location, _ = self.find()
        checkpoint = choose_checkpoint(location, self.checkpoint)
        if self.rollout:
            from worldmodel.rollout.suite import RolloutRequest, evaluate_rollouts

            request = RolloutRequest(
                data=self.data, starts=self.starts, frames=self.frames, temperature=self.temperature, seed=self.seed,
                device=self.device,
            )  # fmt: skip
            with showing_progress() as tell:
                return as_result(evaluate_rollouts(location, checkpoint, request, tell))
        from worldmodel.rollout.evaluation import evaluate

        with showing_progress() as tell:
            return as_result(evaluate(location, checkpoint, self.data, tell))

    def render(self, result: Result) -> str:
        if self.rollout:
            return self.render_rollouts(result)
        tables = [_render_part("validation", result)]
        tables += [_render_part("test, on which nothing is chosen", result["test"])] if result["test"] else []
        facts = {key: value for key, value in result.items() if key not in NO_FACTS}
        return "\n".join([*tables, super().render(facts), *result["notes"]])

    def render_rollouts(self, result: Result) -> str:
        """A table of horizons, and one of how players behave."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        rows: dict[str, dict[str, float]] = result["rows"]
        names = list(dict.fromkeys(name.removeprefix("eval/") for row in rows.values() for name in row))
        shown = [n for n in names if not n.startswith("summary_") or n.rpartition("_k")[0] in SHOWN_OF_ROLLOUTS]
        table = Table("metric", *rows, box=SIMPLE_HEAD, pad_edge=False)
        for name in sorted(shown, key=lambda n: (n.startswith("summary_"), n.rpartition("_k")[0]), reverse=True):
            values = (row.get(f"eval/{name}") for row in rows.values())
            table.add_row(name, *("" if value is None else f"{value:.4f}" for value in values))
        facts = {key: value for key, value in result.items() if key not in ("rows", "curves", "notes")}
        return "\n".join([draw(table), Verb.render(self, facts), *result["notes"]])


def _render_part(name: str, part: Result) -> str:
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

    title = f"{name}: {part['games']:,} games, {part['targets']:,} targets"
    first = Column("metric", no_wrap=True)
    table = Table(first, *part["rows"], title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for metric in SHOWN:
        values = ((row, found.get(metric)) for row, found in part["rows"].items())
        shown = ("" if v is None or metric in HIDDEN.get(row, ()) else f"{v:.4f}" for row, v in values)
        table.add_row(metric.removeprefix("metric/"), *shown)
    return draw(table)
