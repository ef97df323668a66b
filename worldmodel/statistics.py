"""Means over seeds and games: intervals, tests, and the correction for several questions.

Seeds and games are two samples. Student's t covers other seeds on the same games; the bootstrap over games covers other
games under the same seeds. A claim needs two tests: the t test over seeds, and one in which both variances add up, with
Satterthwaite's degrees of freedom (1946). The second alone is wrong too often where few seeds agree by chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.special import chdtr, nctdtr, stdtr, stdtrit

CONFIDENCE = 0.95
ALPHA = 1 - CONFIDENCE
POWER = 0.8
"""Chance that a difference is shown, for `count_seeds`."""
MOST_SEEDS = 1000
RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Draws:
    """A mean over seeds, for each resample of the games."""

    values: np.ndarray
    games: int
    effective: float
    """Kish's number of games: as many of equal length would say as much."""

    def __sub__(self, other: Draws) -> Draws:
        return replace(self, values=self.values - other.values)


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """A metric, or a difference of one, over seeds and games."""

    mean: float
    spread: float | None
    """Standard deviation over seeds; None with one seed."""
    half_width: float | None
    """Half the 95 % confidence interval over seeds alone (Student's t); None with one seed."""
    n: int
    """Seeds."""
    games: int = 0
    """Games that were resampled; 0: the evaluation has no values by game."""
    low: float | None = None
    """Lower end of the 95 % interval over games alone (percentile bootstrap)."""
    high: float | None = None
    games_error: float | None = None
    """Standard error over games."""
    games_freedom: float = 0.0
    """Its degrees of freedom."""
    total: float | None = None
    """Half the 95 % interval over seeds and games together; over seeds alone without values by game."""
    p: float | None = None
    """Two-sided p-value of a mean of 0, over seeds and games; None: it cannot be known."""
    adjusted: float | None = None
    """The same after Holm's correction; None: not among the questions."""
    questions: int = 0
    """Questions that were corrected for."""

    @property
    def is_shown(self) -> bool:
        """True if the mean differs from 0 after the correction."""
        return self.adjusted is not None and self.adjusted <= ALPHA

    @classmethod
    def of(cls, values: Sequence[float], draws: Draws | None = None) -> Statistic:
        """Statistic of one value per seed. `draws`: the games' part, see `resample`."""
        with np.errstate(invalid="ignore"):  # a diverged seed makes the mean nan, not the report fail
            n, mean = len(values), float(np.mean(values))
            spread = float(np.std(values, ddof=1)) if n > 1 else None
        half = None if spread is None else float(stdtrit(n - 1, 1 - ALPHA / 2)) * spread / math.sqrt(n)
        found = cls(mean=mean, spread=spread, half_width=half, n=n, games=draws.games if draws else 0)
        if draws is not None:
            if draws.effective <= 1 or not np.isfinite(draws.values).all():
                return found
            low, high = np.quantile(draws.values, [ALPHA / 2, 1 - ALPHA / 2])
            error = float(np.std(draws.values)) * math.sqrt(draws.effective / (draws.effective - 1))
            found = replace(
                found, low=float(low), high=float(high), games_error=error, games_freedom=draws.effective - 1
            )
        total, p = _judge(found)
        return replace(found, total=total, p=p)

    def count_seeds(self, effect: float, alpha: float = ALPHA) -> int | None:
        """Seeds in all with which a true difference of `effect` would be shown with 80 % power; None: over 1,000.

        Exact for a t test with the present spread; a spread of few seeds is a rough guess.
        """
        if self.spread is None or not effect:
            return None
        if self._find_power(MOST_SEEDS, abs(effect), alpha) < POWER:
            return None
        low, high = 1, MOST_SEEDS
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._find_power(middle, abs(effect), alpha) >= POWER else (middle, high)
        return high

    def _find_power(self, seeds: int, effect: float, alpha: float) -> float:
        """Of the weaker of the two tests."""
        return min(_find_power(*pair, effect, alpha) for pair in _list_errors(self, seeds))


def _find_power(error: float, freedom: float, effect: float, alpha: float) -> float:
    if not error:
        return 1.0
    bound, shift = float(stdtrit(freedom, 1 - alpha / 2)), effect / error
    found = float(1 - nctdtr(freedom, shift, bound) + nctdtr(freedom, shift, -bound))
    # SciPy has no digits for large shifts. There only the error's own chance matters.
    return float(chdtr(freedom, freedom * (shift / bound) ** 2)) if math.isnan(found) else found


def _judge(found: Statistic) -> tuple[float | None, float | None]:
    """Half width and p-value over seeds and games: the larger of the two tests'."""
    if found.spread is None or not math.isfinite(found.mean):
        return None, None
    widths, p_values = [], []
    for error, freedom in _list_errors(found, found.n):
        widths.append(float(stdtrit(freedom, 1 - ALPHA / 2)) * error)
        p_values.append(float(2 * stdtr(freedom, -abs(found.mean) / error)) if error else float(found.mean == 0))
    return max(widths), max(p_values)


def _list_errors(found: Statistic, seeds: int) -> list[tuple[float, float]]:
    """Standard error and degrees of freedom over so many seeds, and over seeds and games together."""
    variance = (found.spread or 0.0) ** 2 / seeds
    alone = math.sqrt(variance), seeds - 1.0
    if found.games_error is None:
        return [alone]
    parts = [(variance, seeds - 1.0), (found.games_error**2, found.games_freedom)]
    whole = sum(part for part, _ in parts)
    freedom = 1 / sum((part / whole) ** 2 / free for part, free in parts) if whole else 1.0
    return [alone, (math.sqrt(whole), freedom)]


def resample(values: np.ndarray) -> Draws:
    """The metric's mean over seeds for each of `RESAMPLES` samples of the games, drawn with replacement.

    The samples depend on the number of games alone: metrics of the same games are resampled in pairs.

    Args:
        values: (seed, 2, game) sums and counts; a seed's value is the ratio of their totals.
    """
    games, counts = values.shape[-1], values[0, 1]
    weights = _draw_weights(games)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (weights @ values[:, 0].T / (weights @ values[:, 1].T)).mean(1)
        effective = float(counts.sum() ** 2 / (counts**2).sum())
    return Draws(values=found, games=games, effective=effective)


@lru_cache(maxsize=4)
def _draw_weights(games: int) -> np.ndarray:
    """(resample, game): how often each sample holds each game."""
    return np.random.default_rng(0).multinomial(games, np.full(games, 1 / games), RESAMPLES).astype(np.float64)


def correct(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979): with all that are at most .05 the chance of any wrong claim is at most 5 %."""
    order, found, worst = np.argsort(p_values, kind="stable"), [1.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[place]))
        found[place] = worst
    return found
