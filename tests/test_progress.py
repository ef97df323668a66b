"""Whoever waits sees how far the work is: bars on a terminal, in a log a line at its start and one a minute."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, get_args

import pytest

from tests.run.test_reporter import Terminal
from worldmodel.cli.main import Command, run_verb
from worldmodel.cli.verb import Result, Verb
from worldmodel.progress import showing_progress

WAITED_FOR = ("encode", "evaluate", "rollout", "film", "fetch", "export", "plan", "audit", "upload")


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal as stderr, 80 columns wide. (A fixture could not: pytest sets stderr anew for the test itself.)"""
    shown = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stderr", shown)
    return shown


def list_lines(terminal: Terminal) -> list[str]:
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()))


@dataclass(frozen=True, kw_only=True)
class Asking(Verb):
    """Looks at what is shown before its work has told anything."""

    opening: ClassVar[str] = "opening the games"
    look: Callable[[], str]

    def run(self) -> Result:
        return {"seen": self.look()}

    def judge(self, result: Result) -> int:
        return int("opening the games" not in result["seen"])


def test_a_bar_is_there_before_the_work_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    assert run_verb(Asking(look=terminal.getvalue)) == 0


def test_every_verb_that_takes_long_says_so_at_once() -> None:
    verbs = dict(zip(WAITED_FOR, map(find_verb, WAITED_FOR), strict=True))
    assert [name for name, verb in verbs.items() if not verb.opening] == []


def find_verb(name: str) -> type[Verb]:
    found = (get_args(choice) for choice in get_args(Command))
    return next(kind for kind, about in found if about.name == name)


@pytest.mark.parametrize("sizes", [False, True])
def test_bars_with_the_time_left_fit_80_columns(monkeypatch: pytest.MonkeyPatch, sizes: bool) -> None:
    terminal = open_terminal(monkeypatch)
    first, last = ("reading", "fetching") if sizes else ("most frequent actions", "kinematic's rollouts")
    with showing_progress("opening the model and its games", sizes=sizes) as tell:
        for done in range(0, 888_800_001, 22_220_000):
            tell(first, done, 999_900_000)
            tell(last, done, 999_900_000)
            time.sleep(0.001)
    lines = list_lines(terminal)
    assert max(map(len, lines)) <= 80
    assert any(re.search(rf"{last} .*eta \d+:\d\d:\d\d", line) for line in lines)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.9, []), (20, ["reading 10%, eta 18s"]), (600, ["reading 10%, eta 9m00s", "reading 20%, eta 8m00s"])],
)
def test_a_log_hears_of_long_stages_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, seconds: float, told: list[str]
) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("worldmodel.progress.time.monotonic", lambda: next(clock) * seconds / 10)
    said: list[str] = []
    with showing_progress(say=said.append) as tell:
        for done in range(11):
            tell("reading", done, 10)
    assert said[: len(told)] == told
    assert len(said) <= seconds / 60 + 1


def test_a_log_hears_what_has_begun_unless_it_is_soon_over(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with showing_progress("opening the games", say=said.append):
        pass
    assert said == []
    monkeypatch.setattr("worldmodel.progress.QUIET_SECONDS", 0.01)
    until = time.monotonic() + 10
    with showing_progress("opening the games", say=said.append):
        while not said and time.monotonic() < until:
            time.sleep(0.01)
    assert said == ["opening the games ..."]


def test_within_another_one_it_is_that_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    open_terminal(monkeypatch)
    said: list[str] = []
    with showing_progress("outer") as outer, showing_progress("inner", say=said.append) as tell:
        assert tell is outer
    assert said == []
