"""An estimate is exact where steps take the same time, and never further off than its steps were."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.tiny_runs import configure, open_data, write_blocks
from worldmodel.features.plan import SampleShape
from worldmodel.run.estimate import (
    FORWARD_SHARE,
    Estimator,
    Pace,
    Work,
    count_predicted,
    describe_estimate,
    estimate_grid,
    estimate_left,
)
from worldmodel.run.record import Estimate, RunRecord, State
from worldmodel.training.feed import plan_training
from worldmodel.training.interval import Interval
from worldmodel.training.schedule import Schedule

WORKS = st.builds(
    Work,
    total_steps=st.integers(1, 300),
    steps_per_epoch=st.integers(1, 60),
    epoch_targets=st.integers(1, 10_000),
    validation_targets=st.integers(0, 5_000),
)


def make_interval(step: int, step_seconds: float) -> Interval:
    return Interval(
        step=step, total_steps=1, epoch=1, loss=0.0, learning_rate=0.0, step_seconds=step_seconds,
        targets_per_second=0.0, data_share=0.0,
    )  # fmt: skip


def simulate(work: Work, seconds: list[float], pace: Pace) -> tuple[float | None, float, int]:
    """The estimate of a run whose steps take so long, what it took, and the step of the estimate."""
    estimator, clock, found, at = Estimator(work, 0, pace), 0.0, None, 0
    targets = work.epoch_targets / work.steps_per_epoch
    for step, took in enumerate(seconds, 1):
        clock += took
        promised = estimator.add(make_interval(step, took), clock)
        if promised is not None:
            found, at = promised, step
        if step % work.steps_per_epoch == 0 or step == work.total_steps:
            clock += FORWARD_SHARE * work.validation_targets * seconds[0] / targets
    return found, clock, at


@given(work=WORKS, took=st.floats(0.001, 10), warmup=st.integers(0, 5))
def test_the_estimate_is_exact_where_every_step_takes_the_same(work: Work, took: float, warmup: int) -> None:
    pace = Pace(steps=1, seconds=0.0, warmup_steps=warmup)
    found, actual, _ = simulate(work, [took] * work.total_steps, pace)
    if work.total_steps <= warmup:
        assert found is None
        return
    assert found == pytest.approx(actual, rel=1e-6)


@given(st.lists(st.floats(0.5, 2.0), min_size=12, max_size=80), st.integers(1, 10))
def test_the_error_is_at_most_that_of_the_pace_over_what_is_left(seconds: list[float], measured: int) -> None:
    work = Work(total_steps=len(seconds), steps_per_epoch=1000, epoch_targets=1000, validation_targets=0)
    found, actual, at = simulate(work, seconds, Pace(steps=measured, seconds=0.0, warmup_steps=0))
    assert found is not None
    left = seconds[at:]
    spread = max((abs(sum(seconds[:at]) / at - took) for took in left), default=0.0)
    assert abs(found - actual) <= spread * len(left) + 1e-6


def test_first_steps_do_not_count_and_few_seconds_are_not_enough() -> None:
    pace = Pace(steps=2, seconds=1.0, warmup_steps=5)
    for steps, took, known in ((5, 100.0, None), (1, 2.0, None), (1, 4.0, 3.0)):
        pace.add(steps, took)
        assert pace.step_seconds == known
    brief = Pace(steps=2, seconds=1.0, warmup_steps=0)
    brief.add(10, 0.01)
    assert brief.step_seconds is None


@given(WORKS, st.integers(0, 300))
def test_validations_to_come_are_those_behind_every_epoch_and_the_last_step(work: Work, step: int) -> None:
    ends = [k for k in range(step + 1, work.total_steps + 1) if k % work.steps_per_epoch == 0 or k == work.total_steps]
    assert work.count_validations(step) == len(ends)


@given(WORKS, st.floats(0.01, 5), st.floats(0, 50))
def test_what_is_left_falls_to_nothing(work: Work, took: float, validation: float) -> None:
    left = [estimate_left(work, step, took, validation) for step in range(work.total_steps + 1)]
    assert left == sorted(left, reverse=True)
    assert left[-1] == 0


@pytest.mark.parametrize("changes", [{}, {"training.mode": "window"}, {"encoding.lookahead": 1}])
def test_work_is_what_the_plan_of_the_games_says(tmp_path: Any, changes: dict[str, Any]) -> None:
    config = configure(changes)
    dataset = open_data(config, write_blocks(tmp_path))
    plan = plan_training(dataset, config)
    total = Schedule.of(config.training, plan.steps_per_epoch).total_steps
    lengths = [game.frames for game in dataset.split.validation]
    work = Work.of(plan, total, count_predicted(lengths, plan.shape))
    lookahead = config.encoding.lookahead
    assert work.validation_targets == sum(n - config.model.context_len - lookahead for n in lengths)
    assert work.epoch_targets == sum(int(plan.count_valid(plan.global_batch(s)).sum()) for s in range(total // 2))


def test_games_without_a_frame_to_predict_count_nothing() -> None:
    assert count_predicted([3, 10, 11], SampleShape(mode="sequence", context=10, length=4)) == 1


def record(total: float, state: State = State.FINISHED, promised: float | None = None, **more: Any) -> RunRecord:
    values = {"seconds": {"total": total}, "price_per_hour_usd": 3600.0, "command": "", "commit": None, **more}
    if promised is not None:
        values["estimate"] = Estimate(seconds=promised, step=9)
    ended = None if state is State.RUNNING else "2026-01-01T00:00:00Z"
    return RunRecord.model_validate({"name": "a", "state": state, "ended": ended, **values})


def test_a_finished_run_shows_estimate_actual_and_error() -> None:
    assert describe_estimate(record(50.0, promised=40.0)) == "40s, took 50s, $50.00: 25 % longer than estimated"
    resumed = record(80.0, promised=40.0, seconds_before=30.0)
    assert "took 50s, $50.00: 25 % longer" in describe_estimate(resumed)
    assert "ended early" in describe_estimate(record(5.0, State.STOPPED, promised=40.0))
    assert "took" not in describe_estimate(record(5.0, State.STOPPED, promised=40.0))
    assert describe_estimate(record(5.0)).startswith("none")


def test_a_grid_takes_its_trials_side_by_side() -> None:
    runs = [record(10.0), record(4.0, State.RUNNING, promised=20.0), record(1.0, State.RUNNING)]
    found = estimate_grid(runs, trials=6, at_once=2)
    assert found is not None
    assert (found.known_trials, found.cost_usd) == (2, pytest.approx(6 * 15.0))
    assert found.seconds == pytest.approx(50.0)  # one lane 10, 15, 15; the other 20, 15, 15
    assert estimate_grid(runs, trials=2, at_once=2).seconds == 20.0  # type: ignore[union-attr]
    assert estimate_grid([record(1.0, State.RUNNING)], trials=6, at_once=2) is None


def test_a_trial_that_was_cut_short_counts_as_it_ended_and_says_nothing_of_the_others() -> None:
    found = estimate_grid([record(10.0), record(1.0, State.FAILED, promised=10.0)], trials=4, at_once=1)
    assert found is not None
    assert (found.seconds, found.cost_usd) == (pytest.approx(31.0), pytest.approx(31.0))


def test_one_unknown_price_makes_a_grids_cost_unknown() -> None:
    found = estimate_grid([record(10.0), record(10.0, price_per_hour_usd=None)], trials=4, at_once=1)
    assert found is not None
    assert (found.seconds, found.cost_usd) == (40.0, None)
