"""A grid's budget and estimate are those of its trials together."""

from __future__ import annotations

import pytest

from tests.tune.results_at_hand import make_record
from tune.costs import check_price, describe_costs, judge_costs, sum_costs
from tune.record import GridRecord, TrialName
from tune.trials import Cluster, plan_resources
from worldmodel.errors import UserError
from worldmodel.training.budget import Budget
from worldmodel.training.prices import HOUR
from worldmodel.training.record import RunRecord, State

RESOURCES = plan_resources(Cluster(cpus=2, gpus=0), 0, 1)


def make_grid(trials: int = 7, **facts: object) -> GridRecord:
    names = [TrialName(name=f"t{k}", experiment="baseline", seed=k) for k in range(trials)]
    return GridRecord(name="grid", at_once=2, trials=names, resume_command="round1.py --budget-usd 1", **facts)


def make_runs(count: int, **changes: object) -> list[RunRecord]:
    """Runs of a minute at 6 dollars an hour: 10 cents each."""
    return [make_record("baseline", seed, **changes) for seed in range(count)]


def test_dollars_without_a_price_are_refused_and_the_message_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HOUR, raising=False)
    with pytest.raises(UserError, match=f"price is unknown.*{HOUR}"):
        check_price(Budget(usd=3), RESOURCES, None)
    check_price(Budget(hours=3), RESOURCES, None)
    monkeypatch.setenv(HOUR, "2")
    check_price(Budget(usd=3), RESOURCES, None)


def test_a_budget_that_earlier_attempts_used_up_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOUR, "2")
    older = make_grid(seconds=7200.0, cost_usd=4.0)
    for budget in (Budget(usd=3), Budget(hours=1)):
        with pytest.raises(UserError, match="by earlier attempts: ask for more, as --budget"):
            check_price(budget, RESOURCES, older)
    check_price(Budget(usd=5, hours=3), RESOURCES, older)


def test_the_budget_counts_all_trials_and_the_resume_command_asks_for_more() -> None:
    grid = make_grid()
    judge = judge_costs(Budget(usd=0.25), grid, lambda text: None)
    assert judge(60.0, make_runs(2)) is None
    assert "budget of $0.25 reached: $0.30" in (judge(120.0, make_runs(3)) or "")
    command, option, value = grid.resume_command.split()
    assert (command, option) == ("round1.py", "--budget-usd")
    assert float(value) >= 0.7  # seven trials of 10 cents


def test_hours_are_wall_clock_and_not_those_of_trials_side_by_side() -> None:
    judge = judge_costs(Budget(hours=1), make_grid(), lambda text: None)
    assert judge(3599.0, make_runs(100)) is None
    assert "budget of 1 hours reached" in (judge(3600.0, []) or "")


def test_the_estimate_is_said_once_as_soon_as_all_trials_side_by_side_are_known() -> None:
    grid, said = make_grid(), list[str]()
    judge = judge_costs(Budget(), grid, said.append)
    ended = make_runs(2)
    for record in ended:
        record.ended = record.updated
    judge(60.0, ended[:1])
    assert said == []
    judge(60.0, ended)
    judge(90.0, ended)
    assert said == ["estimate: 4m00s, $0.70 for the whole grid"]  # 7 trials of a minute, 2 at once
    grid.seconds, grid.cost_usd = 300.0, 0.8
    assert describe_costs(grid) == "estimated 4m00s, $0.70 for all of it, took 5m00s, $0.80 so far"
    grid.state = State.FINISHED
    assert describe_costs(grid) == "estimated 4m00s, $0.70, took 5m00s, $0.80: -20 %"


def test_one_unknown_price_makes_the_sum_unknown() -> None:
    assert sum_costs(make_runs(3)) == pytest.approx(0.3)
    assert sum_costs([*make_runs(3), *make_runs(1, price_per_hour_usd=None)]) is None
    assert sum_costs([]) is None
