"""A budget ends a run with a reason, and is counted over all of its attempts."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.run.budget import Budget
from worldmodel.run.record import RunRecord, State
from worldmodel.run.run_folder import read_record, start_run
from worldmodel.run.train import TrainRequest, check_budget, price_run
from worldmodel.storage import Location

CONFIG = ExperimentConfig(name="trial")
LIMITS = st.floats(1e-3, 1e6)


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["hours", "usd"])
def test_what_is_no_limit_is_refused(name: str, limit: float) -> None:
    with pytest.raises(UserError, match=f"--budget-{name} .*expected a number above 0"):
        Budget(**{name: limit})


@given(LIMITS, LIMITS, st.floats(0, 1e7), st.floats(0, 1e7))
def test_a_budget_ends_when_either_limit_is_reached(hours: float, usd: float, seconds: float, cost: float) -> None:
    is_over = seconds >= 3600 * hours or cost >= usd
    assert (Budget(hours=hours, usd=usd).find_end(seconds, cost) is not None) == is_over
    assert Budget().find_end(seconds, cost) is None
    assert Budget(usd=usd).find_end(seconds, None) is None


@given(LIMITS, st.floats(0, 1e9))
def test_the_budget_that_is_proposed_is_larger_and_enough(usd: float, needed: float) -> None:
    larger = Budget(usd=usd).propose(0.0, needed)
    assert larger.usd is not None
    assert larger.hours is None
    assert larger.usd > usd
    assert larger.usd >= needed


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("w train a.yaml", "w train a.yaml --budget-usd 5"),
        ("w train a.yaml --budget-usd 1 --resume", "w train a.yaml --resume --budget-usd 5"),
        ("w train --budget-usd=1 'a b.yaml'", "w train 'a b.yaml' --budget-usd 5"),
        ("w --budget-hours 3", "w --budget-hours 3 --budget-usd 5"),
    ],
)
def test_a_command_keeps_all_but_its_old_budget(command: str, expected: str) -> None:
    assert Budget(usd=5).apply_to(command) == expected


def wait_for_stop(record: RunRecord, storage: Location, seconds: float = 5.0) -> RunRecord:
    """The record of a run that waits to be stopped."""
    facts = record.model_dump(include={"price_per_hour_usd", "budget", "resume_command"})
    run = start_run(storage, CONFIG, total_steps=10, command="w train a.yaml --budget-usd 0.5", **facts)
    with run.recording():
        run.note_step(1)
        deadline = time.monotonic() + seconds
        while run.should_stop() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    return read_record(run.location)


@pytest.mark.parametrize("budget", [Budget(usd=0.5), Budget(hours=0.5 / 3600)])
def test_a_run_ends_itself_where_its_budget_does(tmp_path: object, budget: Budget) -> None:
    wish = RunRecord(name="a", price_per_hour_usd=3600.0, budget=budget)
    found = wait_for_stop(wish, Location.of(str(tmp_path)))
    assert found.state is State.STOPPED
    assert found.reason.startswith("budget of ")
    assert 0.5 <= found.seconds.total < 3
    proposed = float(found.resume_command.split()[-1])
    assert proposed > (budget.usd or budget.hours or 0)
    assert "--resume" in found.resume_command


def test_dollars_of_earlier_attempts_keep_their_price() -> None:
    first = RunRecord(name="a", seconds={"total": 3600.0}, price_per_hour_usd=2.0)
    facts = {"seconds_before": first.seconds.total, "cost_before_usd": first.cost_usd}
    later = RunRecord(name="a", seconds={"total": 5400.0}, price_per_hour_usd=10.0, **facts)
    assert later.cost_usd == pytest.approx(2.0 + 5.0)
    unknown = RunRecord(name="a", seconds={"total": 5400.0}, price_per_hour_usd=10.0, seconds_before=3600.0)
    assert unknown.cost_usd == pytest.approx(15.0)


def test_a_run_pays_for_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLDMODEL_PRICE_PER_HOUR", "2")
    request = TrainRequest(config=CONFIG, workers=2, share=0.25)
    assert price_run(request, {"gpu": "NVIDIA H200"}, None)["price_per_hour_usd"] == 1.0
    assert price_run(TrainRequest(config=CONFIG, workers=2), {}, None)["price_per_hour_usd"] == 2.0


def test_dollars_without_a_price_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLDMODEL_PRICE_PER_HOUR", raising=False)
    with pytest.raises(UserError, match=r"--budget-usd 3 .*unknown.*set WORLDMODEL_PRICE_PER_HOUR"):
        price_run(TrainRequest(config=CONFIG, budget=Budget(usd=3)), {"name": "Some CPU"}, None)


def test_a_budget_that_earlier_attempts_used_up_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLDMODEL_PRICE_PER_HOUR", "1")
    older = RunRecord(name="a", seconds={"total": 7200.0})
    for budget, is_enough in ((Budget(usd=2), False), (Budget(usd=2.01), True), (Budget(hours=1), False)):
        cost = price_run(TrainRequest(config=CONFIG, budget=budget), {}, older)
        if is_enough:
            check_budget(cost, budget, older)
        else:
            with pytest.raises(UserError, match=r"cannot go on: budget of .* ask for more, such as --budget-"):
                check_budget(cost, budget, older)
