"""A request to stop is heard, whoever writes it and whatever becomes of the terminal."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from worldmodel.experiment.config import ExperimentConfig
from worldmodel.run.record import State
from worldmodel.run.run import POLL_SECONDS, RECORD
from worldmodel.run.run_folder import read_record, start_run
from worldmodel.run.stop_request import STOP, describe_signal, hear_signals, read_stop
from worldmodel.storage import Location

WRITTEN = {
    "genug für heute\n".encode(): "genug für heute",
    "genug für heute\r\n".encode("utf-16"): "genug für heute",  # PowerShell's `>`
    "genug f\xfcr heute".encode("latin-1"): "genug f\ufffdr heute",
    b"\xff\xfe\x00": "\ufffd",
    b" \n": "asked by a stop file",
}


@pytest.mark.parametrize("content", WRITTEN)
def test_a_stop_file_is_heard_in_whatever_bytes_it_is_written(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(POLL_SECONDS, "file", 0.05)
    run = start_run(Location.of(tmp_path), ExperimentConfig(name="trial"), total_steps=10)
    assert read_stop(run.location) is None
    until = datetime.now(UTC) + timedelta(seconds=10)
    with run.recording():
        (run.location / STOP).write_bytes(content)
        while run.should_stop() is None:
            assert datetime.now(UTC) < until, "it is not heard"
    record = read_record(run.location)
    assert (record.state, record.reason) == (State.STOPPED, WRITTEN[content])
    silent = record.model_copy(update={"state": State.RUNNING, "reason": "", "heartbeat": until - timedelta(hours=1)})
    silent.heartbeat_uptime = None
    (run.location / RECORD).write_text(silent.model_dump_json())  # as if it had been killed before it heard
    assert read_record(run.location).reason == f"{WRITTEN[content]}; killed before it could end"


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """What was heard."""
    found: list[int] = []
    restore = hear_signals(found.append)
    yield found
    restore()


def test_a_signal_is_heard_where_nobody_reads_what_is_said(heard: list[int]) -> None:
    kept, (reader, writer) = os.dup(2), os.pipe()
    os.close(reader)
    os.dup2(writer, 2)
    try:
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(writer)
    assert heard == [signal.SIGINT]


def test_a_terminal_that_closes_asks_only_however_often(heard: list[int]) -> None:
    for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
        os.kill(os.getpid(), number)
    assert heard == [signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP]
    assert "terminal" in describe_signal(heard[0])
    with pytest.raises(SystemExit):
        os.kill(os.getpid(), signal.SIGTERM)


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        heard: list[int] = []
        restore = hear_signals(heard.append)
        os.kill(os.getpid(), signal.SIGHUP)
        restore()
        assert heard == [] and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
