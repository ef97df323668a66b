"""What is made ahead is what would be made in turn; errors arrive with their cause, and no end waits for the thread."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.tiny_runs import Log, are_equal, begin, configure, take_state, write_blocks
from worldmodel.errors import UserError
from worldmodel.training.ahead import Ahead


@given(steps=st.lists(st.integers(0, 20), max_size=30), end=st.integers(0, 25))
@settings(deadline=None)
def test_any_order_of_steps_gives_each_step_its_own(steps: list[int], end: int) -> None:
    with Ahead(lambda step: step * step, end) as ahead:
        assert [ahead.take(step) for step in steps] == [step * step for step in steps]


def test_in_order_each_step_is_made_once_while_the_one_before_is_used_and_none_beyond_the_end() -> None:
    made: list[int] = []
    with Ahead(made.append, 5) as ahead:
        for step in range(5):
            ahead.take(step)
            until = time.monotonic() + 5
            while len(made) < min(step + 2, 5) and time.monotonic() < until:
                time.sleep(0.001)
            assert made == list(range(min(step + 2, 5)))
    time.sleep(0.02)
    assert made == list(range(5))


def test_an_error_in_making_a_step_is_raised_where_that_step_is_taken() -> None:
    def make(step: int) -> int:
        if step == 2:
            raise UserError("block abc is damaged")
        return step

    with Ahead(make, 10) as ahead:
        assert [ahead.take(step) for step in range(2)] == [0, 1]
        with pytest.raises(UserError, match="block abc"):
            ahead.take(2)
        assert ahead.take(3) == 3


def test_leaving_does_not_wait_for_what_hangs_and_the_thread_ends() -> None:
    hang = threading.Event()

    def make(step: int) -> int:
        if step:
            hang.wait(20)
        return step

    began = time.monotonic()
    with Ahead(make, 10) as ahead:
        ahead.take(0)
    assert time.monotonic() - began < 5
    hang.set()
    until = time.monotonic() + 5
    while time.monotonic() < until and any(t.name == "next batch" for t in threading.enumerate()):
        time.sleep(0.01)
    assert not [thread for thread in threading.enumerate() if thread.name == "next batch"]


def test_training_with_the_thread_is_bit_for_bit_that_without(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = write_blocks(tmp_path_factory.mktemp("ahead"))
    config = configure({"model.dropout": 0.1})
    first, second = begin(config, blocks), begin(config, blocks)
    Log().run(first)
    monkeypatch.setattr("worldmodel.training.ahead.Ahead.take", lambda self, step: self._make(step))
    Log().run(second)
    assert first.step == second.step > 0
    assert are_equal(take_state(first), take_state(second))
