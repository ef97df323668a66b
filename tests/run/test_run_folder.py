"""What a killed run's folder says afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import to_yaml
from worldmodel.run.record import RunRecord, State
from worldmodel.run.run import CONFIG, RECORD
from worldmodel.run.run_folder import read_config, read_record, start_run
from worldmodel.run.stop_request import STOP
from worldmodel.storage import Location


@pytest.fixture
def killed(tmp_path: Path) -> Location:
    """A run whose process is gone without a word."""
    run = start_run(Location.of(tmp_path), ExperimentConfig(name="tiny"), total_steps=9)
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    gone = run.record.model_copy(update={"state": State.RUNNING, "step": 3, "pid": process.pid})
    (run.location / RECORD).write_text(gone.model_dump_json())
    return run.location


def test_a_run_that_was_killed_unasked_is_lost(killed: Location) -> None:
    assert read_record(killed).state is State.LOST


def test_a_run_that_was_killed_after_it_was_asked_to_stop_keeps_the_reason(killed: Location) -> None:
    (killed / STOP).write_text("the machines are needed\n")
    record = read_record(killed)
    assert record.state is State.STOPPED
    assert record.reason == "the machines are needed; killed before it could end"
    assert record.ended == record.heartbeat


def test_an_end_that_was_written_is_not_explained_again(killed: Location) -> None:
    written = RunRecord.model_validate_json((killed / RECORD).read_bytes())
    written.state, written.reason = State.FAILED, "a cause"
    (killed / RECORD).write_text(written.model_dump_json())
    (killed / STOP).write_text("too late")
    assert (read_record(killed).state, read_record(killed).reason) == (State.FAILED, "a cause")


def test_a_run_from_before_the_test_part_has_none(tmp_path: Path) -> None:
    """Its test games would be games that it was trained on."""
    text = to_yaml(ExperimentConfig())
    (tmp_path / CONFIG).write_text("\n".join(line for line in text.splitlines() if "test_split" not in line))
    assert read_config(Location.of(tmp_path)).training.test_split == 0
    (tmp_path / CONFIG).write_text(text)
    assert read_config(Location.of(tmp_path)) == ExperimentConfig()
