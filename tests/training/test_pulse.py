"""A run that stands still ends itself, and says where."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from worldmodel.errors import UserError
from worldmodel.run.run import STALLED
from worldmodel.run.run_folder import read_record
from worldmodel.storage import Location
from worldmodel.training import pulse as module
from worldmodel.training.pulse import DEFAULT_MINUTES, VARIABLE, Pulse, read_limit

CHILD = """
import sys, time
from worldmodel.storage import Location
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.training.pulse import Pulse
from worldmodel.run.run_folder import start_run

def hang_for_ever():
    time.sleep(600)

run = start_run(Location.of(sys.argv[1]), ExperimentConfig(name="trial"), total_steps=10)
with run.recording():
    pulse = Pulse()
    run.watch(pulse)
    for step in range(5):
        time.sleep(0.01)
        pulse.beat()
        run.note_step(step + 1)
    hang_for_ever()
"""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_process_that_hangs_ends_itself_and_its_record_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "0.01")
    began = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, timeout=100)
    assert ended.returncode == STALLED
    assert time.monotonic() - began < 60
    record = read_record(Location.of(tmp_path / "trial"))
    assert (record.state, record.step, record.rank) == ("failed", 5, 0)
    assert record.reason.startswith("StalledError: no progress for 0.01")
    assert "hang_for_ever" in record.traceback
    assert record.device_state["memory_available_bytes"] > 0
    assert record.reason.removeprefix("StalledError: ")[:20] in ended.stderr


def test_slow_steps_are_no_standstill(clock: list[float]) -> None:
    pulse = Pulse(limit=60.0)
    for _ in range(5):
        clock[0] += 30.0
        pulse.beat()
    clock[0] += 500.0  # less than 20 times the slowest
    assert pulse.find_stall() is None
    clock[0] += 101.0
    assert "no progress for 10 minutes" in (pulse.find_stall() or "")


def test_a_start_and_a_validation_have_their_own_time(clock: list[float]) -> None:
    pulse = Pulse(limit=60.0)
    clock[0] = 170.0
    assert pulse.find_stall() is None
    clock[0] = 181.0
    assert pulse.find_stall() is not None
    for _ in range(100):
        pulse.beat("validation")
        clock[0] += 1.0
    assert pulse.find_stall() is None


@pytest.mark.parametrize(("text", "seconds"), [("", 60 * DEFAULT_MINUTES), ("2.5", 150.0), ("0", None), ("-1", None)])
def test_how_long_it_may_take_is_a_setting(monkeypatch: pytest.MonkeyPatch, text: str, seconds: float | None) -> None:
    monkeypatch.setenv(VARIABLE, text)
    assert read_limit() == seconds


def test_a_setting_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "ten")
    with pytest.raises(UserError, match="WORLDMODEL_STALL_MINUTES: found 'ten'"):
        read_limit()


def test_nothing_stands_still_where_it_may_for_ever(clock: list[float]) -> None:
    pulse = Pulse(limit=None)
    clock[0] = 1e9
    assert pulse.find_stall() is None
