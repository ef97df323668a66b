"""What the data holds that a person should know: counted per game while encoding, summed up in `index.json`."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from worldmodel.games.game import Game
from worldmodel.games.names import name_players, name_stage
from worldmodel.schema import LEGAL_STAGES, PLAYER_FIELDS, PLAYERS, Field, Kind


@dataclass(frozen=True, kw_only=True)
class _Column:
    """One player's column, with what every game asks of it."""

    player: int
    field: Field
    name: str
    """"p0.field"."""
    edge: float
    """From this value on some may lie outside the vocabulary."""


@cache
def _list_columns() -> list[_Column]:
    return [
        _Column(player=p, field=f, name=f"p{p}.{f.name}",
                edge=f.vocabulary - 1.0 if f.kind is Kind.CATEGORY else math.inf)
        for p in range(PLAYERS) for f in PLAYER_FIELDS
    ]  # fmt: skip


@dataclass(kw_only=True)
class Audit:
    """Counts over games; adding two audits gives that of all their games."""

    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Field to its smallest and largest value."""
    constant: Counter[str] = field(default_factory=Counter)
    """"p0.field" to the number of games in which it never changes (missing fields not counted)."""
    outside: Counter[str] = field(default_factory=Counter)
    """Field to the number of frames with a value outside the model's vocabulary (clipped in the features)."""
    outside_games: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    """"p0.field" to the number of games whose replay lacks it."""
    repeats: Counter[str] = field(default_factory=Counter)
    """"none", "dropped", "unknown" to games; "frames dropped" to frames."""
    stages: Counter[str] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)
    """Internal id of the character that is played most to the number of players."""
    implausible: Counter[str] = field(default_factory=Counter)
    """"p0.field in MD5" to the number of frames with a value that no game reaches."""
    games: int = 0

    def add_game(self, game: Game) -> None:
        """Count one game."""
        self.games += 1
        self.stages[str(game.stage)] += 1
        self.missing.update(game.missing)
        dropped = game.repeats.removesuffix(" dropped")
        self.repeats["dropped" if dropped.isdigit() else game.repeats] += 1
        self.repeats["frames dropped"] += int(dropped) if dropped.isdigit() else 0
        self.characters.update(map(str, game.characters))
        outside: Counter[str] = Counter()
        for column in _list_columns():
            if column.name not in game.missing:
                outside[column.field.name] += self._add_column(column, game)
        self.outside += outside
        self.outside_games.update((+outside).keys())

    def _add_column(self, column: _Column, game: Game) -> int:
        """Count one player's column; returns how many of its values lie outside the vocabulary."""
        spec, bounds = column.field, game.planes.bounds[column.player, column.field.name]
        (low, high), known = bounds, self.ranges.get(spec.name)
        if known is None or low < known[0] or high > known[1]:
            self._widen(spec.name, bounds)
        if low == high:
            self.constant[column.name] += 1
        least, most = spec.bounds
        if high > most or low < least:
            values = game.planes.column(column.player, spec.name)
            self.implausible[f"{column.name} in {game.md5}"] += int(((values < least) | (values > most)).sum())
        return count_outside(spec, game.planes.column(column.player, spec.name)) if high >= column.edge else 0

    def _widen(self, name: str, bounds: tuple[float, float]) -> None:
        old = self.ranges.get(name, bounds)
        self.ranges[name] = (min(bounds[0], old[0]), max(bounds[1], old[1]))

    def merge(self, other: Audit) -> None:
        """Add another audit's counts."""
        for name, bounds in other.ranges.items():
            self._widen(name, bounds)
        for name in (
            "constant",
            "outside",
            "outside_games",
            "missing",
            "repeats",
            "stages",
            "characters",
            "implausible",
        ):
            getattr(self, name).update(getattr(other, name))
        self.games += other.games

    def constant_fields(self) -> list[str]:
        """Fields that never change in any game (of those that record them): dead columns."""
        per_field = {f.name: [f"p{p}.{f.name}" for p in range(PLAYERS)] for f in PLAYER_FIELDS if f.name in self.ranges}
        return [
            name
            for name, columns in per_field.items()
            if self.ranges[name][0] == self.ranges[name][1]
            and all(self.constant[c] + self.missing[c] == self.games for c in columns)
        ]

    def counts(self) -> dict[str, Any]:
        """All counts as plain JSON values; `from_counts` takes them back."""
        plain = {name: dict(value) if isinstance(value, dict) else value for name, value in vars(self).items()}
        return {**plain, "ranges": {name: list(bounds) for name, bounds in self.ranges.items()}}

    @classmethod
    def from_counts(cls, counts: dict[str, Any]) -> Audit:
        """The audit whose `counts` these are."""
        values: dict[str, Any] = {k: Counter(v) if isinstance(v, dict) else v for k, v in counts.items()}
        ranges = {name: (float(low), float(high)) for name, (low, high) in counts.get("ranges", {}).items()}
        return cls(**{**values, "ranges": ranges})

    def report(self) -> dict[str, object]:
        """The audit as `index.json` keeps it."""
        return {
            "games": self.games,
            "ranges": {name: list(bounds) for name, bounds in self.ranges.items()},
            "constant_fields": self.constant_fields(),
            "constant_in_games": {k: v for k, v in sorted(self.constant.items()) if v},
            "outside_vocabulary": {
                name: {"frames": count, "games": self.outside_games[name]}
                for name, count in sorted(self.outside.items())
            },
            "implausible": dict(sorted(self.implausible.items())),
            "missing_in_games": dict(sorted(self.missing.items())),
            "repeats": dict(self.repeats),
            "stages": {name_stage(int(k)): v for k, v in sorted(self.stages.items())},
            "characters": dict(self.characters.most_common()),
        }

    def warnings(self) -> list[str]:
        """What should be said aloud."""
        found = [
            name_players(f"{place}: {count} values that no game reaches")
            for place, count in sorted(self.implausible.items())
        ]
        if self.repeats["unknown"]:
            found.append(
                f"rollback repeats are unknown in {self.repeats['unknown']} of {self.games} games (no frame ids): they "
                "stay"
            )
        if dead := self.constant_fields():
            found.append(f"constant in all {self.games} games: {', '.join(dead)}")
        for name, count in sorted(self.outside.items()):
            found.append(
                f"{name}: {count} values in {self.outside_games[name]} games lie outside the model's vocabulary; they "
                "are clipped in the features"
            )
        for name in sorted({name.split(".")[1] for name in self.missing}):
            games = max(self.missing[f"p{p}.{name}"] for p in range(PLAYERS))
            found.append(f"{name}: not recorded in {games} games; masked there in loss and metrics")
        if others := {int(stage): games for stage, games in self.stages.items() if int(stage) not in LEGAL_STAGES}:
            listed = ", ".join(f"{name_stage(stage)} ({games} games)" for stage, games in sorted(others.items()))
            found.append(f"stages that are no tournament stages, so nothing says what is possible there: {listed}")
        return found


def count_outside(spec: Field, values: np.ndarray) -> int:
    """Values whose class lies outside the field's vocabulary."""
    classes = values.astype(np.int64)
    if spec.empty is not None:
        classes = np.where(classes == spec.empty, 0, classes + 1)
    return int((classes >= spec.vocabulary).sum())
