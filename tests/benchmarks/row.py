"""A row of the benchmark's table: one number, what it is compared with, and what was aimed at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a row is to reach."""

    of: Literal["value", "ratio"]
    """Which of the row's numbers is judged."""
    least: float | None = None
    most: float | None = None

    def is_reached(self, row: Row) -> bool:
        """Whether the row's number lies within the bounds."""
        number = row.value if self.of == "value" else row.ratio
        assert number is not None, f"{row.area}: no {self.of} to judge"
        return (self.least is None or number >= self.least) and (self.most is None or number <= self.most)

    def __str__(self) -> str:
        bounds = [f"≥ {self.least:,g}" if self.least is not None else "", f"≤ {self.most:,g}" if self.most else ""]
        return " and ".join(bound for bound in bounds if bound) + ("x" if self.of == "ratio" else "")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison."""

    area: str
    """What is done, such as "feed: sequences of 256"."""
    unit: str
    """Of the values, such as "targets per CPU-s"."""
    measured: str
    """Who is measured."""
    value: float
    against: str | None = None
    """Who it is compared with, in the same run."""
    value_against: float | None = None
    ratio: float | None = None
    """Value over the other's, median over the rounds."""
    ratio_range: tuple[float, float] | None = None
    """Least and largest ratio of a round."""
    cpu_seconds: float | None = None
    """Of a round of the one measured."""
    wall_seconds: float | None = None
    """Of a round of the one measured."""
    goal: Goal | None = None
    note: str = ""
    """What a reader must know to believe it."""

    @property
    def holds(self) -> bool | None:
        """Whether the goal is reached; None where there is none."""
        return None if self.goal is None else self.goal.is_reached(self)

    def as_json(self) -> dict[str, Any]:
        """All of it, and whether it holds."""
        return {**asdict(self), "goal": str(self.goal) if self.goal else None, "holds": self.holds}
