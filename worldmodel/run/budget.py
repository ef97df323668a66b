"""How much a run may take: counted over all its attempts, and looked at while it trains."""

from __future__ import annotations

import math
import shlex

from pydantic import BaseModel, ConfigDict

from worldmodel.errors import UserError
from worldmodel.run.reporter import format_usd

OPTIONS = {"hours": "--budget-hours", "usd": "--budget-usd"}
"""Option of the command line that sets each limit."""
MARGIN = 1.1
"""A larger budget that is proposed has so much more than the estimate says."""


class Budget(BaseModel):
    """Limits of a run; None: no such limit. UserError where one is not a number above 0."""

    model_config = ConfigDict(frozen=True)

    hours: float | None = None
    """Wall-clock hours."""
    usd: float | None = None
    """Dollars."""

    def model_post_init(self, context: object) -> None:
        for name, option in OPTIONS.items():
            limit = getattr(self, name)
            if limit is not None and not (math.isfinite(limit) and limit > 0):
                raise UserError(f"{option} {limit:g}: expected a number above 0; leave it out for no limit")

    def find_end(self, seconds: float, cost_usd: float | None) -> str | None:
        """Why a run that has taken so many seconds and dollars is to end; None: it may go on."""
        if self.hours is not None and seconds >= 3600 * self.hours:
            return f"budget of {self.hours:g} hours reached: {seconds / 3600:.3g} hours taken"
        if self.usd is not None and cost_usd is not None and cost_usd >= self.usd:
            return f"budget of ${self.usd:g} reached: {format_usd(cost_usd)} spent"
        return None

    def propose(self, seconds: float, cost_usd: float | None) -> Budget:
        """A budget under which a run can go on that will take so many seconds and dollars in all: never a smaller one,
        and twice the present where that would not do."""
        needed = {"hours": seconds / 3600, "usd": cost_usd}
        larger = {
            name: _round_up(MARGIN * needed) if needed and MARGIN * needed > limit else _round_up(2 * limit)
            for name, needed in needed.items()
            if (limit := getattr(self, name)) is not None
        }
        return Budget(**larger)

    def apply_to(self, command: str) -> str:
        """A command line with this budget in place of the one that it has."""
        words = shlex.split(command)
        for name, option in OPTIONS.items():
            if (limit := getattr(self, name)) is not None:
                words = [*_without(words, option), option, f"{limit:g}"]
        return shlex.join(words)


def describe_budget(budget: Budget) -> str:
    """The limits in words."""
    hours = [] if budget.hours is None else [f"{budget.hours:g} hours"]
    return " or ".join(hours + ([] if budget.usd is None else [f"${budget.usd:g}"]))


def _without(words: list[str], option: str) -> list[str]:
    """The words without an option and its value."""
    kept: list[str] = []
    skip = False
    for word in words:
        if not (skip or word == option or word.startswith(f"{option}=")):
            kept.append(word)
        skip = word == option
    return kept


def _round_up(number: float) -> float:
    """The next number of two digits."""
    size = 10.0 ** (math.floor(math.log10(number)) - 1)
    return float(f"{math.ceil(number / size - 1e-9) * size:.6g}")
