"""Waiting is counted as waiting; on a GPU host and device have their own shares, from its own clock."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from worldmodel.training import stopwatch
from worldmodel.training.stopwatch import Stopwatch


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def read(self) -> float:
        return self.now

    def spend(self, watch: Stopwatch, waiting: float, computing: float) -> None:
        with watch.waiting():
            self.now += waiting
        with watch.computing():
            self.now += computing


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(perf_counter=clock.read))
    return clock


def test_on_a_cpu_the_share_of_waiting_is_that_of_the_wall_clock(clock: Clock) -> None:
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(3):
        clock.spend(watch, 0.03, 0.06)
    clock.now += 0.03
    shares = watch.read()
    assert (watch.steps, watch.seconds) == (3, pytest.approx(0.3))
    assert shares.data == pytest.approx(0.3)
    assert (shares.host, shares.device) == (None, None)


class FakeEvent:
    """A moment of a device that takes 40 ms for a step, whatever the host does."""

    now = 0.0

    def record(self) -> None:
        self.at, FakeEvent.now = FakeEvent.now, FakeEvent.now + 40

    def elapsed_time(self, other: FakeEvent) -> float:
        return other.at - self.at


def test_on_a_gpu_the_hosts_share_is_that_of_a_step_that_it_launches_without_waiting(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopwatch, "make_event", FakeEvent)
    watch = Stopwatch(torch.device("cuda"))
    clock.spend(watch, 0.0, 0.02)  # the first: nothing is queued, so this is the host's own work
    for _ in range(3):
        clock.spend(watch, 0.0, 0.06)  # then it waits for room in the queue
    shares = watch.read()
    assert (shares.data, shares.host, shares.device) == (0, pytest.approx(0.4), pytest.approx(0.8))
