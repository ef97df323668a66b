"""What the driver of several workers does while they train."""

from __future__ import annotations

import sys
from collections import deque

import pytest

from tests.run.test_reporter import GoneReader
from worldmodel.run.crew import _show


class Lines:
    """What a first worker has said."""

    def qsize(self) -> int:
        return 1

    def get_nowait_batch(self, count: int) -> list[str]:
        return ["step 1\n"]


def test_a_terminal_that_has_gone_does_not_end_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", GoneReader())
    shown: deque[str] = deque()
    assert _show(Lines(), shown)
    assert list(shown) == ["step 1"]
