"""A grid's budget and estimate are those of its trials together."""

from __future__ import annotations

import pytest

from tests.tune.results_at_hand import make_record
from tune.costs import GridCosts, check_price, describe_costs
from tune.record import GridRecord, TrialName
from tune.resources import Cluster, plan_resources
from worldmodel.errors import UserError
from worldmodel.run.budget import Budget
from worldmodel.run.prices import HOUR
from worldmodel.run.record import RunRecord, State

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


def make_costs(budget: Budget, grid: GridRecord, said: list[str] | None = None) -> GridCosts:
    return GridCosts(budget=budget, record=grid, say=(said if said is not None else []).append)


def test_the_bill_is_of_all_that_trials_may_hold_for_as_long_as_the_grid_runs() -> None:
    grid = make_grid()
    costs = make_costs(Budget(usd=0.5), grid)
    assert costs.judge(60.0, make_runs(2)) is None
    assert grid.cost_usd == pytest.approx(0.2)  # two at once, a minute at 6 dollars an hour each
    assert "budget of $0.5 reached: $0.60" in (costs.judge(180.0, make_runs(2)) or "")
    command, option, value = grid.resume_command.split()
    assert (command, option) == ("round1.py", "--budget-usd")
    assert float(value) > 0.6


def test_places_that_no_trial_can_take_are_on_no_bill() -> None:
    grid = make_grid(trials=1)  # of two places
    assert make_costs(Budget(), grid).judge(60.0, make_runs(1)) is None
    assert grid.cost_usd == pytest.approx(0.1)


def test_what_earlier_attempts_cost_is_kept() -> None:
    grid = make_grid(seconds=600.0, cost_usd=5.0)
    make_costs(Budget(), grid).judge(660.0, make_runs(1))
    assert grid.cost_usd == pytest.approx(5.2)


def test_a_price_that_is_unknown_makes_the_bill_unknown() -> None:
    for grid, runs in (
        (make_grid(), make_runs(2, price_per_hour_usd=None)), (make_grid(), []), (make_grid(seconds=9.0), make_runs(1)),
    ):  # fmt: skip
        make_costs(Budget(), grid).judge(60.0, runs)
        assert grid.cost_usd is None


def test_a_budget_of_dollars_holds_where_what_earlier_attempts_cost_is_unknown() -> None:
    grid = make_grid(seconds=60.0)  # it ended before a trial could say its price
    costs = make_costs(Budget(usd=0.5), grid)
    assert costs.judge(120.0, make_runs(2)) is None
    assert grid.cost_usd == pytest.approx(0.4)  # its minute counts by today's price
    assert "budget of $0.5 reached" in (costs.judge(180.0, make_runs(2)) or "")


def test_hours_are_wall_clock_and_not_those_of_trials_side_by_side() -> None:
    costs = make_costs(Budget(hours=1), make_grid())
    assert costs.judge(3599.0, make_runs(100)) is None
    assert "budget of 1 hours reached" in (costs.judge(3600.0, []) or "")


def test_the_estimate_is_said_once_as_soon_as_all_trials_side_by_side_are_known() -> None:
    grid, said = make_grid(), list[str]()
    costs = make_costs(Budget(), grid, said)
    ended = make_runs(2)
    for record in ended:
        record.ended = record.updated
    costs.judge(60.0, ended[:1])
    assert said == []
    costs.judge(60.0, ended)
    costs.judge(90.0, ended)
    assert said == ["estimate: 4m00s, $0.80 for the whole grid"]  # 7 trials of a minute, 2 at once
    grid.seconds, grid.cost_usd = 300.0, 1.0
    assert describe_costs(grid) == "estimated 4m00s, $0.80 for all of it, took 5m00s, $1.00 so far"
    grid.state = State.FINISHED
    assert describe_costs(grid) == "estimated 4m00s, $0.80, took 5m00s, $1.00: 25 % longer than estimated"
