"""Means over seeds and games: intervals, tests, and the correction for several questions.

Seeds and games are two samples. Student's t covers other seeds on the same games; the bootstrap over games covers other
games under the same seeds. A claim needs both: their variances add up, with Satterthwaite's degrees of freedom (1946).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import nct
from scipy.stats import t as student

CONFIDENCE = 0.95
ALPHA = 1 - CONFIDENCE
POWER = 0.8
"""Chance that a difference is shown, for `count_seeds`."""
MOST_SEEDS = 1000
RESAMPLES = 2000


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
    total: float | None = None
    """Half the 95 % interval over seeds and games together; over seeds alone without values by game."""
    p: float | None = None
    """Two-sided p-value of a mean of 0, over seeds and games; None: it cannot be known."""

    @classmethod
    def of(cls, values: Sequence[float], draws: np.ndarray | None = None, games: int = 0) -> Statistic:
        """Statistic of one value per seed.

        Args:
            values: one per seed.
            draws: the mean over seeds for each resample of the games, see `resample`.
            games: number of games behind `draws`.
        """
        with np.errstate(invalid="ignore"):  # a diverged seed makes the mean nan, not the report fail
            n, mean = len(values), float(np.mean(values))
            spread = float(np.std(values, ddof=1)) if n > 1 else None
        half = None if spread is None else float(student.ppf((1 + CONFIDENCE) / 2, n - 1)) * spread / math.sqrt(n)
        found = cls(mean=mean, spread=spread, half_width=half, n=n)
        if draws is not None and games > 1 and np.isfinite(draws).all():
            low, high = np.quantile(draws, [ALPHA / 2, 1 - ALPHA / 2])
            error = float(np.std(draws)) * math.sqrt(games / (games - 1))
            found = cls(**{**vars(found), "games": games, "low": float(low), "high": float(high), "games_error": error})
        elif draws is not None:
            return cls(**{**vars(found), "games": games})
        return cls(**{**vars(found), **_judge(found)})

    def count_seeds(self, effect: float, alpha: float = ALPHA) -> int | None:
        """Seeds in all with which a true difference of `effect` would be shown with 80 % power; None: over 1,000.

        Exact for a t test with the present spread; a spread of few seeds is a rough guess.
        """
        if self.spread is None or not effect:
            return None
        enough = [n for n in _ladder(self.n) if self._find_power(n, abs(effect), alpha) >= POWER]
        if not enough:
            return None
        low, high = 1, enough[0]
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._find_power(middle, abs(effect), alpha) >= POWER else (middle, high)
        return high

    def _find_power(self, seeds: int, effect: float, alpha: float) -> float:
        error, freedom = _combine(self.spread or 0.0, seeds, self.games_error, self.games)
        if not error:
            return 1.0
        bound = float(student.ppf(1 - alpha / 2, freedom))
        shift = min(effect / error, 1e3)
        return float(nct.sf(bound, freedom, shift) + nct.cdf(-bound, freedom, shift))


def _ladder(n: int) -> list[int]:
    return sorted({*(min(max(2, n) * 2**k, MOST_SEEDS) for k in range(11))})


def _judge(found: Statistic) -> dict[str, float | None]:
    """Half width and p-value over seeds and games."""
    if found.spread is None or not math.isfinite(found.mean):
        return {}
    error, freedom = _combine(found.spread, found.n, found.games_error, found.games)
    if not error:
        return {"total": 0.0, "p": float(found.mean == 0)}
    width = float(student.ppf(1 - ALPHA / 2, freedom)) * error
    return {"total": width, "p": float(2 * student.sf(abs(found.mean) / error, freedom))}


def _combine(spread: float, seeds: int, games_error: float | None, games: int) -> tuple[float, float]:
    """Standard error of a mean over seeds and games, and its degrees of freedom."""
    parts = [(spread**2 / seeds, seeds - 1)] + ([(games_error**2, games - 1)] if games_error is not None else [])
    variance = sum(part for part, _ in parts)
    if not variance:
        return 0.0, 1.0
    return math.sqrt(variance), 1 / sum((part / variance) ** 2 / freedom for part, freedom in parts)


def resample(values: np.ndarray) -> np.ndarray:
    """The metric's mean over seeds for each of `RESAMPLES` samples of the games, drawn with replacement.

    The samples depend on the number of games alone: metrics of the same games are resampled in pairs.

    Args:
        values: (seed, 2, game) sums and counts; a seed's value is the ratio of their totals.
    """
    weights = _draw_weights(values.shape[-1])
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray = (weights @ values[:, 0].T / (weights @ values[:, 1].T)).mean(1)
    return found


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
