"""What the terminal shows is what happened."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest

from worldmodel.run.reporter import Reporter, format_count, format_duration, list_facts
from worldmodel.training.interval import Interval

INTERVAL = Interval(
    step=1200, total_steps=8000, epoch=1, loss=1.2339, learning_rate=5e-4, step_seconds=0.0123,
    targets_per_second=51_234.0, data_share=0.004,
)  # fmt: skip
LINE = (
    "step 1200/8000 15% | loss 1.234 | 51.2k targets/s | eta 1m24s | epoch 1 | lr 5.0e-04 | 12.3 ms/step | "
    "data 0.4% compute 99.6%"
)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class GoneReader(io.StringIO):
    """A pipe that nobody reads any more."""

    def write(self, text: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise BrokenPipeError


@pytest.mark.parametrize("is_terminal", [False, True])
def test_lines_that_nobody_can_read_are_kept_nevertheless(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GoneReader, "isatty", lambda self: is_terminal)
    kept: list[str] = []
    reporter = Reporter(8000, kept.append, GoneReader())
    reporter.show(INTERVAL)
    reporter.say("validated")
    reporter.close()
    assert kept == [LINE, "validated"]


def test_an_interval_is_one_line_without_a_terminal() -> None:
    stream, kept = io.StringIO(), []
    reporter = Reporter(8000, kept.append, stream)
    reporter.show(INTERVAL)
    reporter.say("checkpoint [step 1200] " + "long " * 60)
    reporter.close()
    assert stream.getvalue().splitlines() == [LINE, "checkpoint [step 1200] " + "long " * 60] == kept


def show_validation(reporter: Reporter, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A validation in ten batches."""
    clock = iter(range(100))
    monkeypatch.setattr("worldmodel.progress.time.monotonic", lambda: next(clock) * seconds / 10)
    for done in range(11):
        reporter.show_progress("validation", done, 10)


@pytest.mark.parametrize(
    ("seconds", "lines"), [(0.9, []), (20, ["validation 10%, eta 18s"]),
    (100, ["validation 10%, eta 1m30s", "validation 70%, eta 30s"])],
)  # fmt: skip
def test_a_long_validation_says_how_long_it_takes(
    seconds: float, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, kept = io.StringIO(), []
    reporter = Reporter(8000, kept.append, stream)
    for _ in range(2):
        reporter.show(INTERVAL)
        show_validation(reporter, seconds, monkeypatch)
    assert stream.getvalue().splitlines() == kept == [LINE, *lines] * 2


def test_a_terminal_shows_a_validation_from_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream, kept = Terminal(), []
    reporter = Reporter(8000, kept.append, stream)
    reporter.show_progress("validation", 0, 10)
    assert reporter._bar is not None and reporter._bar.tasks[1].fields["line"] == "validation 0%"
    show_validation(reporter, 60, monkeypatch)
    assert reporter._bar.tasks[1].completed == 10
    assert reporter._bar.tasks[1].fields["line"] == "validation 100%, eta 0s"
    monkeypatch.undo()
    reporter.show(INTERVAL)
    assert len(reporter._bar.tasks) == 1
    reporter.close()
    assert kept == [LINE]


@pytest.mark.parametrize(("columns", "last"), [(80, "eta 1m24s"), (120, "12.3 ms/step"), (200, "compute 99.6%")])
def test_a_terminal_shows_a_bar_and_what_fits_beside_it(
    monkeypatch: pytest.MonkeyPatch, columns: int, last: str
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    stream, kept = Terminal(), []
    reporter = Reporter(8000, kept.append, stream)
    reporter.show(INTERVAL)
    reporter.say("validated")
    reporter.close()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    facts = LINE.removeprefix("step ")
    whole = next(line for line in re.split(r"[\r\n]+", shown) if "loss" in line)
    assert whole.rstrip().endswith(facts[: facts.index(last) + len(last)])
    assert len(whole) <= columns
    assert "validated" in shown
    assert kept == [LINE, "validated"]


def test_counts_and_times_are_short_and_right() -> None:
    assert [format_count(n) for n in (0.5, 950, 51_234, 1_250_000, 3e9)] == ["0.5", "950", "51.2k", "1.25M", "3G"]
    times = {0: "0s", 45.4: "45s", 192: "3m12s", 7500: "2h05m", 97_200: "1d03h", -3: "0s"}
    assert {s: format_duration(s) for s in times} == times


def test_on_a_gpu_host_and_device_have_shares_of_their_own() -> None:
    shares = list_facts(replace(INTERVAL, host_share=0.25, device_share=0.97))[-1]
    assert shares == "data 0.4% host 25.0% device 97.0%"


def test_mfu_stands_in_the_line_where_it_is_known() -> None:
    assert list_facts(replace(INTERVAL, device_share=0.97, mfu=0.0731))[-1].endswith("device 97.0% mfu 7.3%")
