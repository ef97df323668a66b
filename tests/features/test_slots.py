"""What is required is at hand when `require` returns, what is expected comes next, and slots hold no more than that."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.errors import UserError
from worldmodel.features.slots import BlockSlots


class Memory:
    """Slots as a list of block numbers, and a log of what was loaded."""

    def __init__(self, slots: int, loaders: int = 1) -> None:
        self.content: list[int | None] = [None] * slots
        self.loaded: list[int] = []
        self.slots = BlockSlots(slots, self.load, loaders)

    def load(self, block: int, slot: int) -> None:
        if block < 0:
            raise UserError(f"block {block} is damaged")
        self.content[slot] = None
        self.loaded.append(block)
        self.content[slot] = block

    def settle(self) -> None:
        """Wait until nothing is being loaded."""
        until = time.monotonic() + 10
        while self.slots._running and time.monotonic() < until:
            time.sleep(0.001)
        assert not self.slots._running


needs = st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True)
rounds = st.lists(st.tuples(needs, st.lists(st.integers(0, 9), max_size=8)), min_size=1, max_size=20)


@given(rounds=rounds, slots=st.integers(3, 6), loaders=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_what_is_required_is_in_a_slot_and_stays_while_others_come(
    rounds: list[tuple[list[int], list[int]]], slots: int, loaders: int
) -> None:
    memory = Memory(slots, loaders)
    for needed, expected in rounds:
        memory.slots.expect(expected)
        memory.slots.require(needed)
        assert set(needed) <= set(memory.content)
        memory.settle()
        assert set(needed) <= set(memory.content)
        wanted = list(dict.fromkeys([*needed, *expected]))[:slots]
        assert set(wanted) <= set(memory.content), "there is room for it, but it did not come"


def test_a_block_at_hand_is_not_loaded_again_and_the_longest_unused_goes_first() -> None:
    memory = Memory(3)
    for block in (1, 2, 3, 1, 4):
        memory.slots.require([block])
    assert memory.loaded == [1, 2, 3, 4]
    assert set(memory.content) == {1, 3, 4}


def test_what_comes_next_is_loaded_while_the_present_is_used() -> None:
    memory, began = Memory(3), threading.Event()
    load = memory.slots._load

    def wait(block: int, slot: int) -> None:
        if block == 2:
            assert began.wait(10)
        load(block, slot)

    memory.slots._load = wait
    memory.slots.expect([1, 2])
    memory.slots.require([1])
    assert memory.content.count(1) == 1 and 2 not in memory.content
    began.set()
    memory.slots.require([2])
    assert memory.loaded == [1, 2]


def test_what_goes_wrong_in_the_thread_is_raised_with_its_cause_and_nothing_hangs() -> None:
    memory = Memory(3)
    memory.slots.require([1])
    memory.slots.expect([-5])
    memory.settle()
    for _ in range(2):
        with pytest.raises(UserError, match="block -5 is damaged"):
            memory.slots.require([2])


def test_no_thread_is_left_behind() -> None:
    memory = Memory(2, loaders=2)
    memory.slots.expect([1, 2, 3])
    memory.slots.require([1, 2])
    memory.settle()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and any(t.name == "block loader" for t in threading.enumerate()):
        time.sleep(0.01)
    assert not [thread for thread in threading.enumerate() if thread.name == "block loader"]


@given(rounds=st.lists(needs, min_size=2, max_size=12), slots=st.integers(3, 6), loaders=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_what_is_held_stays_until_it_is_released(rounds: list[list[int]], slots: int, loaders: int) -> None:
    memory = Memory(slots, loaders)
    memory.slots.hold(rounds[0])
    for held, coming in pairwise(rounds):
        maker = threading.Thread(target=memory.slots.hold, args=(coming,))
        maker.start()  # as the next packet is made while a step is launched
        if len({*held, *coming}) <= slots:
            maker.join(10)
        assert set(held) <= set(memory.content)
        memory.slots.expect(coming[::-1])
        assert set(held) <= set(memory.content)
        memory.slots.release()
        maker.join(10)
        assert not maker.is_alive() and set(coming) <= set(memory.content)
