"""Verdicts claim what there is, and rarely what there is not."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import scipy.stats

from tests.tune.results_at_hand import add_games, make_early, make_evaluation, make_result
from tune.results import TrialResult, make_tables
from tune.verdict import Verdict, describe_verdicts, find_cautions, find_verdicts
from worldmodel.statistics import ALPHA, correct

MAE, CHANGE = "metric/position_mae", "metric/action_change_acc_both"
BARS = {MAE: "kinematic", CHANGE: "most frequent next action"}
LEVEL = {MAE: 0.2, CHANGE: 0.5}
NAMES = ("baseline", "1a", "2a", "1a-2a")


@cache
def start(name: str, seed: int) -> TrialResult:
    """A trial without values; its record takes a millisecond."""
    return make_result(name, seed)


def draw_grid(
    dice: np.random.Generator, effects: dict[str, float], *, seeds: int = 3, games: int = 25, spread: float = 0.02,
    bar: float = 0.0,
) -> list[TrialResult]:  # fmt: skip
    """Trials whose games, seeds and pairs of both differ by chance; `effects`: true change of both metrics.

    `bar`: the rows without training, over the mean level.
    """
    counts = dice.integers(500, 1500, games).astype(float)
    hard = dice.normal(0, spread, (2, games))
    likes = {name: dice.normal(0, spread, (2, games)) for name in effects}
    found = []
    for name, effect in effects.items():
        for seed in range(seeds):
            moved = effect + dice.normal(0, spread / 3, (2, 1)) + dice.normal(0, spread / 3, (2, games))
            values: dict[str, np.ndarray] = {}
            for n, metric in enumerate(LEVEL):
                rate = LEVEL[metric] + hard[n] + likes[name][n] + moved[n]
                values[f"model:{metric}"] = np.stack([rate * counts, counts])
                values[f"{BARS[metric]}:{metric}"] = np.stack([(LEVEL[metric] + bar + hard[n]) * counts, counts])
            found.append(add_games(replace(start(name, seed), evaluation=make_evaluation({})), values))
    return found


def count_claims(verdicts: list[Verdict]) -> int:
    return sum(answer.outcome != "unclear" for verdict in verdicts for answer in verdict.answers)


def answers_of(trials: list[TrialResult]) -> dict[tuple[str, str], Any]:
    return {(v.experiment, a.metric): a for v in find_verdicts(make_tables(trials)) for a in v.answers}


@pytest.mark.parametrize(("seeds", "grids"), [(2, 100), (3, 1000), (8, 100)])
def test_few_grids_without_a_difference_claim_one(seeds: int, grids: int) -> None:
    dice = np.random.default_rng(0)
    drawn = (draw_grid(dice, dict.fromkeys(NAMES, 0.0), seeds=seeds) for _ in range(grids))
    assert sum(count_claims(find_verdicts(make_tables(trials))) > 0 for trials in drawn) <= 0.07 * grids


def test_few_grids_without_games_claim_a_difference_there_is_not() -> None:
    dice, wrong = np.random.default_rng(0), 0
    for _ in range(1000):
        trials = [
            replace(start(name, seed), evaluation=make_evaluation({m: dice.normal(0.5, 0.1) for m in LEVEL}))
            for name in NAMES for seed in range(3)
        ]  # fmt: skip
        wrong += count_claims(find_verdicts(make_tables(trials))) > 0
    assert wrong <= 70


def test_a_large_difference_is_claimed_with_its_size() -> None:
    trials = draw_grid(np.random.default_rng(0), {"baseline": 0.0, "1a": 0.1}, spread=0.005)
    found = answers_of(trials)
    assert (found["1a", CHANGE].outcome, found["1a", MAE].outcome) == ("better", "worse")
    assert found["1a", CHANGE].text.startswith("1a raises action-change accuracy by ")
    assert "points against the baseline (95 %, 3 seeds, 25 games): better" in found["1a", CHANGE].text


def test_p_values_are_scipys_corrected_for_all_questions() -> None:
    dice = np.random.default_rng(5)
    values = {name: dice.normal(0.5, 0.1, (2, 4)) for name in NAMES}
    trials = []
    for name, (first, second) in values.items():
        for seed in range(4):
            trial = make_result(name, seed, first[seed])
            assert trial.evaluation is not None
            trial.evaluation["rows"]["model"][CHANGE] = second[seed]
            trials.append(trial)
    [table] = make_tables(trials)
    expected = correct([
        scipy.stats.ttest_rel(values[name][n], values["baseline"][n]).pvalue for name in NAMES[1:] for n in (0, 1)
    ])  # fmt: skip
    found = [row.difference[metric].adjusted for row in table.rows[1:] for metric in (MAE, CHANGE)]
    assert found == pytest.approx(expected)


def test_what_cannot_be_shown_says_how_many_seeds_would_do() -> None:
    trials = draw_grid(np.random.default_rng(1), {"baseline": 0.0, "1a": 0.0}, spread=0.003)
    text = answers_of(trials)["1a", MAE].text
    assert text.startswith("position MAE: no difference of 1a from the baseline can be shown (")
    assert "more seed" in text or "use more validation games" in text


@pytest.mark.parametrize(
    ("bar", "said"), [(-0.1, "both are worse than the kinematic baseline"), (0.1, "kinematic"), (0.0, "neither is")]
)
def test_both_are_held_against_the_row_without_training(bar: float, said: str) -> None:
    trials = draw_grid(np.random.default_rng(2), {"baseline": 0.0, "1a": 0.0}, bar=bar)
    assert (said in answers_of(trials)["1a", MAE].text) == (bar != 0.1)


def test_a_bar_must_be_cleared_by_an_interval() -> None:
    dice = np.random.default_rng(3)
    barely = draw_grid(dice, {"1a": -0.001}, spread=0.02)
    clearly = draw_grid(dice, {"1a": -0.05}, spread=0.002)
    assert any("is not shown to be below kinematic" in text for text in make_tables(barely)[0].shortfalls)
    assert not any("kinematic" in text for text in make_tables(clearly)[0].shortfalls)


def test_one_seed_shows_nothing() -> None:
    trials = draw_grid(np.random.default_rng(4), {"baseline": 0.0, "1a": 0.2}, seeds=1)
    found = answers_of(trials)
    assert {answer.outcome for answer in found.values()} == {"unclear"}
    assert "one seed has no interval" in found["1a", CHANGE].text


def test_coinciding_seeds_are_named_and_show_nothing() -> None:
    trials = draw_grid(np.random.default_rng(4), {"baseline": 0.0, "1a": 0.2}, spread=0.002)
    trials[4] = replace(trials[4], evaluation=trials[3].evaluation)
    found = answers_of(trials)
    assert {answer.outcome for answer in found.values()} == {"unclear"}
    assert "1a: seeds 0 and 1 coincide" in found["1a", CHANGE].text
    assert any("seeds 0 and 1 coincide" in text for text in find_cautions(make_tables(trials)))


def test_an_experiment_that_equals_the_baseline_is_named() -> None:
    trials = draw_grid(np.random.default_rng(4), {"baseline": 0.0})
    trials += [replace(trial, experiment="1a", name=f"1a-seed{trial.seed}") for trial in trials]
    assert any("they trained the same thing" in text for text in find_cautions(make_tables(trials)))


def test_seeds_that_a_scheduler_selected_are_not_compared() -> None:
    trials = draw_grid(np.random.default_rng(4), {"baseline": 0.0, "1a": 0.2}, spread=0.002)
    trials = [*trials[:4], make_early("1a", 1), make_early("1a", 2)]
    table = make_tables(trials)[0]
    assert table.rows[1].difference == {}
    assert "1a: 1 of 3 seeds, selected by the scheduler" in find_cautions([table])


@pytest.mark.parametrize(("games", "is_named"), [(8, True), (25, False)])
def test_too_few_games_are_named(games: int, is_named: bool) -> None:
    trials = draw_grid(np.random.default_rng(4), {"baseline": 0.0, "1a": 0.0}, games=games)
    assert any(f"{games} validation games" in text for text in find_cautions(make_tables(trials))) == is_named


def test_the_goal_stands_beside_the_answer() -> None:
    trials = draw_grid(np.random.default_rng(4), {"baseline": 0.0, "1a": 0.0})
    trials = [
        replace(t, record=t.record.model_copy(update={"goal": f"Why {t.experiment}?"})) for t in trials if t.record
    ]
    titles = [title for title, _ in describe_verdicts(make_tables(trials))]
    assert titles == ["1a: Why 1a?", "All answers"]


def test_the_test_games_are_reported_apart() -> None:
    trials = draw_grid(np.random.default_rng(4), {"baseline": 0.0, "1a": 0.2}, spread=0.002)
    for trial in trials:
        rate = 0.4 + 0.1 * (trial.experiment == "1a") + 0.001 * trial.seed**2
        add_games(trial, {f"model:{CHANGE}": np.array([[rate * 9] * 7, [9.0] * 7])}, "test")
    assert "on 7 test games, on which nothing was chosen: +10.0 ± 0.0 points" in answers_of(trials)["1a", CHANGE].text
    assert answers_of(trials)["1a", CHANGE].text.count("test games") == 1


def test_interval_over_games_is_paired() -> None:
    """Games differ much, experiments by the same in each game: the difference has a narrow interval."""
    trials = draw_grid(np.random.default_rng(6), {"baseline": 0.0, "1a": 0.05}, spread=0.0001)
    for trial in trials:
        assert trial.evaluation is not None
        for metric, (sums, counts) in trial.evaluation["by_game"]["model"].items():
            moved = np.array(sums) + np.linspace(-0.1, 0.1, 25) * np.array(counts)
            add_games(trial, {f"model:{metric}": np.array([moved, counts])})
    row = make_tables(trials)[0].rows[1]
    wide, narrow = row.metrics[CHANGE], row.difference[CHANGE]
    assert wide.high is not None and wide.low is not None and narrow.high is not None and narrow.low is not None
    assert wide.high - wide.low > 20 * (narrow.high - narrow.low)
    assert narrow.p is not None and narrow.p < ALPHA
