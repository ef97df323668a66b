"""Workers with unequal work leave it together, whoever of them is told to and whenever."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.training.tiny_runs import CPU
from worldmodel.training.meeting import Meeting, StopRequest
from worldmodel.training.workers import Workers


class Threads(Workers):
    """Workers of which each is a thread; one that is alone in a sum breaks it."""

    def __init__(self, world: int) -> None:
        super().__init__(device=CPU, world=world)
        object.__setattr__(self, "barrier", threading.Barrier(world, timeout=10))
        object.__setattr__(self, "told", torch.zeros(2, dtype=torch.int64))
        object.__setattr__(self, "lock", threading.Lock())

    def sum(self, values: Tensor) -> Tensor:
        with self.lock:
            self.told += values
        self.barrier.wait()
        found = self.told.clone()
        if self.barrier.wait() == 0:
            self.told.zero_()
        self.barrier.wait()
        return found


@given(work=st.lists(st.integers(0, 9), min_size=1, max_size=4), data=st.data())
@settings(max_examples=30, deadline=None)
def test_workers_of_unequal_work_stop_together_or_not_at_all(work: list[int], data: st.DataObject) -> None:
    stops = data.draw(st.none() | st.tuples(st.integers(0, len(work) - 1), st.integers(0, 9)), label="who, and when")
    workers = Threads(len(work))

    def do(rank: int) -> tuple[int, str]:
        done = 0
        meeting = Meeting(workers, lambda: "asked" if stops and stops[0] == rank and done >= stops[1] else None)
        try:
            for done in range(work[rank]):
                meeting.tell("work", done, work[rank])
            done += 1
            meeting.end()
        except StopRequest as stop:
            return done, str(stop)
        return work[rank], ""

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(len(work)) as pool:
        patch.setattr("worldmodel.training.meeting.SECONDS", 0.0)
        ends = list(pool.map(do, range(len(work))))
    reasons = [reason for _, reason in ends]
    assert all(reasons) or not any(reasons)
    if any(reasons):
        assert stops is not None and reasons[stops[0]] == "asked"
        assert max(done for done, _ in ends) <= stops[1] + 1  # at once
    else:
        assert stops is None or work[stops[0]] < stops[1]


def test_a_stop_is_heard_within_a_second_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("worldmodel.training.meeting.time.monotonic", lambda: clock[0])
    meeting = Meeting(Workers(device=CPU), lambda: "asked" if clock[0] > 3 else None)
    with pytest.raises(StopRequest, match="asked"):
        for done in range(1000):
            clock[0] += 0.1
            meeting.tell("work", done, 1000)
    assert clock[0] < 4
