"""The benchmark's own arithmetic."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.benchmarks.race import Contestant, Pairing, Round, compare, race
from tests.benchmarks.row import Goal, Row
from tests.benchmarks.table import make_table, write_json


def _spend(seconds: float) -> float:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
    return 1.0


def test_contestants_take_turns_after_one_unmeasured_turn_each() -> None:
    turns: list[str] = []

    def run(name: str) -> float:
        turns.append(name)
        return 1.0

    rounds = race([Contestant(name=n, run=lambda n=n: run(n)) for n in "ab"], rounds=3)
    assert turns == ["a", "b"] * 4
    assert {name: len(found) for name, found in rounds.items()} == {"a": 3, "b": 3}


def test_the_ratio_is_that_of_cpu_seconds_not_of_waiting() -> None:
    def wait() -> float:
        time.sleep(0.1)
        return _spend(0.02)

    rounds = race([Contestant(name="slow", run=lambda: _spend(0.06)), Contestant(name="waits", run=wait)], rounds=3)
    row = compare(rounds, Pairing(area="spin", unit="turns", measured="waits", against="slow"))
    assert row.ratio == pytest.approx(3, rel=0.3)
    assert row.wall_seconds is not None and row.cpu_seconds is not None and row.wall_seconds > 3 * row.cpu_seconds


def test_the_ratio_is_the_median_over_rounds_so_that_one_bad_round_does_not_count() -> None:
    def rounds_of(*seconds: float) -> list[Round]:
        return [Round(work=1.0, cpu_seconds=s, wall_seconds=s) for s in seconds]

    row = compare(
        {"a": rounds_of(1, 1, 9), "b": rounds_of(2, 2, 2)}, Pairing(area="", unit="turns", measured="a", against="b")
    )
    assert row.ratio == 2 and row.ratio_range == (2 / 9, 2)


@pytest.mark.parametrize(
    ("goal", "holds"),
    [
        (Goal(of="ratio", least=2), True),
        (Goal(of="ratio", least=2.1), False),
        (Goal(of="value", most=10), True),
        (Goal(of="value", most=9.9), False),
        (None, None),
    ],
)
def test_a_goal_is_judged_on_its_own_number(goal: Goal | None, holds: bool | None) -> None:
    assert Row(area="a", unit="MB", measured="us", value=10, ratio=2.0, goal=goal).holds is holds


def test_what_is_written_says_where_it_was_measured_and_what_was_missed(tmp_path: Path) -> None:
    row = Row(area="a", unit="MB", measured="us", value=10, goal=Goal(of="value", most=9))
    write_json([row], tmp_path / "deep" / "bench.json")
    found = json.loads((tmp_path / "deep" / "bench.json").read_text())
    assert found["machine"]["cores"] and found["rows"][0]["holds"] is False and found["rows"][0]["goal"] == "≤ 9"
    assert make_table([row]).row_count == 1
