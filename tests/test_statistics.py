"""Intervals and tests agree with scipy.stats, and hold what they promise in simulations."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.statistics import ALPHA, POWER, Draws, Statistic, correct, resample

TABLES = st.integers(0, 10**6).map(np.random.default_rng)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@settings(deadline=None, max_examples=60)
@given(TABLES, st.integers(2, 9))
def test_p_value_over_seeds_is_scipys_paired_t_test(dice: np.random.Generator, seeds: int) -> None:
    one, other = dice.normal(size=(2, seeds)) * dice.uniform(0.01, 100)
    found = Statistic.of((one - other).tolist())
    expected = scipy.stats.ttest_rel(one, other)
    low, high = expected.confidence_interval(1 - ALPHA)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert (found.mean - (found.total or 0), found.mean + (found.total or 0)) == pytest.approx((low, high))


@settings(deadline=None, max_examples=10)
@given(TABLES, st.integers(10, 40))
def test_interval_over_games_is_scipys_bootstrap(dice: np.random.Generator, games: int) -> None:
    sums, counts = dice.normal(5, 2, games), dice.integers(50, 100, games).astype(float)
    draws = resample(np.array([[sums, counts]]))
    expected = scipy.stats.bootstrap(
        (sums, counts), lambda s, c, axis: s.sum(axis) / c.sum(axis), paired=True, method="percentile",
        n_resamples=4000, rng=1,
    )  # fmt: skip
    found = Statistic.of([sums.sum() / counts.sum()], draws)
    width = expected.confidence_interval.high - expected.confidence_interval.low
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval), abs=0.08 * width)
    assert found.games_error == pytest.approx(expected.standard_error * (games / (games - 1)) ** 0.5, rel=0.1)
    assert found.p is None


def draw_normal(mean: float, error: float, games: int) -> Draws:
    """Resamples that are normal to many digits."""
    values = scipy.stats.norm(mean, error).ppf((np.arange(20_000) + 0.5) / 20_000)
    return Draws(values=values, games=games, effective=float(games))


def test_games_and_seeds_together_are_welchs_t_test() -> None:
    """A mean over seeds plus an independent mean over games has the variance and freedom of Welch's test."""
    dice = np.random.default_rng(3)
    seeds, games = dice.normal(0.5, 1, 4), dice.normal(0, 3, 20)
    draws = draw_normal(float(seeds.mean()), scipy.stats.sem(games) * (19 / 20) ** 0.5, 20)
    expected = scipy.stats.ttest_ind(seeds, games - games.mean(), equal_var=False)
    assert Statistic.of(seeds.tolist(), draws).p == pytest.approx(expected.pvalue, rel=1e-3)


def test_games_never_make_seeds_look_better() -> None:
    values = [0.5, 0.6, 0.55]
    alone, together = Statistic.of(values), Statistic.of(values, draw_normal(0.55, 1e-6, 20))
    assert together.p is not None and alone.p is not None and together.p >= alone.p
    assert together.total is not None and alone.total is not None and together.total >= alone.total


@given(P_VALUES)
def test_correction_is_holms_definition(ps: list[float]) -> None:
    found = correct(ps)
    ranked = sorted(ps)
    for p, adjusted in zip(ps, found, strict=True):
        last = max(place for place, value in enumerate(ranked) if value == p)
        assert adjusted == pytest.approx(max(min(1, (len(ps) - k) * ranked[k]) for k in range(last + 1)))


@pytest.mark.parametrize(("spread", "effect"), [(1.0, 2.0), (1.0, 0.5), (3.0, 1.0)])
def test_seeds_that_are_asked_for_would_show_the_difference(spread: float, effect: float) -> None:
    values = np.array([-1.0, 0.0, 1.0]) * spread
    needed = Statistic.of(values.tolist()).count_seeds(effect)
    assert needed is not None
    dice = np.random.default_rng(0)
    shown = scipy.stats.ttest_1samp(dice.normal(effect, spread, (4000, needed)), 0, axis=1).pvalue < ALPHA
    assert shown.mean() >= POWER - 0.03
    fewer = scipy.stats.ttest_1samp(dice.normal(effect, spread, (4000, needed - 1)), 0, axis=1).pvalue < ALPHA
    assert fewer.mean() < POWER + 0.03


def test_no_number_of_seeds_replaces_games() -> None:
    games = Statistic.of([1.0, 1.1, 0.9], draw_normal(1.0, 5.0, 8))
    assert games.count_seeds(1.0) is None


@pytest.mark.parametrize(("values", "p"), [([0.0, 0.0], 1.0), ([1.0, 1.0], 0.0), ([1.0], None), ([np.nan, 1.0], None)])
def test_degenerate_samples_have_the_p_value_they_deserve(values: list[float], p: float | None) -> None:
    assert Statistic.of(values).p == p


def test_one_game_tells_nothing_of_other_games() -> None:
    assert Statistic.of([1.0, 1.1], resample(np.ones((2, 2, 1)))).p is None
