"""A run that grows when a machine comes and shrinks when one has a notice learns what one worker learns."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.faults.conftest import Tell
from tests.faults.ray_head import heading, kill_tree
from tests.faults.small_runs import ask, end_alike, start, wait_for_step, write_experiment
from tests.jobs.head_node import wait_for
from worldmodel.cli.main import main
from worldmodel.run.pause import NOTICE, RESIZE
from worldmodel.run.record import State
from worldmodel.run.run_folder import read_written
from worldmodel.storage import Location

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.xdist_group("ray"), pytest.mark.timeout(600)]
EPOCHS = 40
SETTINGS = {"batch_parts": 2, "num_epochs": EPOCHS}
"""With two parts, one worker and two learn the same to the last bit."""
WAIT_SECONDS = 150


def test_a_run_grows_and_shrinks_with_its_machines_and_loses_no_step(blocks: Path, tmp_path: Path, tell: Tell) -> None:
    experiment = write_experiment(tmp_path, "run", **SETTINGS)
    assert main(ask(experiment, blocks, str(tmp_path / "whole"))) == 0
    run = Location.of(tmp_path / "runs/run")
    with heading(cpus=0) as head:
        first = head.add_machine("machine1")
        asked = [*ask(experiment, blocks, str(tmp_path / "runs")), "--workers", "1..2"]
        process = start(asked, tmp_path / "log", WORLDMODEL_RESIZE_SECONDS="5", **head.environment)
        wait_for_step(run, 10)
        second = head.add_machine("machine2")
        wait_for(lambda: len(read_written(run).interruptions) == 1, WAIT_SECONDS, "the second worker")
        began = time.monotonic()
        head.drain(head.list_machines()["machine1"], 60)
        wait_for(lambda: len(read_written(run).interruptions) == 2, WAIT_SECONDS, "one worker after the notice")
        seconds = time.monotonic() - began
        kill_tree(first)
        assert process.wait(300) == 0, (tmp_path / "log").read_text()
        kill_tree(second)
    record = read_written(run)
    assert record.state is State.FINISHED
    assert [found.workers for found in record.interruptions[:2]] == [2, 1]
    assert [found.reason.split(":")[0] for found in record.interruptions[:2]] == [
        RESIZE.split(":")[0], NOTICE.split(":")[0],
    ]  # fmt: skip
    assert all(found.step == found.resumed_step for found in record.interruptions[:2])
    assert end_alike(run, Location.of(tmp_path / "whole/run"))
    fault = "Ray: one of two machines has a notice, under --workers 1..2"
    tell(fault, "resumed automatically", seconds, "nothing", record.interruptions[1].reason)
