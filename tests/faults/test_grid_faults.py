"""A grid whose Ray head is killed ends with the cause, and goes on to the table of one that was not.

It ends by itself after half a minute, as failed. Where Ray holds the whole process in a call to its head, Ray ends it
after a minute of its own; the cause is on record by then, and whoever reads the record takes the grid for stopped.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.faults.conftest import Tell
from tests.faults.ray_head import heading
from tests.tune.test_killed_grid import find_steps, read_table, start
from tune.record import read_grid
from worldmodel.run.record import State
from worldmodel.storage import Location

RAYS_OWN_SECONDS = 80
"""Ray's minute, and the time until it begins."""
pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.xdist_group("ray"), pytest.mark.timeout(400)]


def wait_until_both_train(process: subprocess.Popen[bytes], folder: Path) -> None:
    until = time.monotonic() + 120
    while min(find_steps(folder).values()) < 3:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)


def test_a_grid_whose_ray_head_dies_ends_with_the_cause_and_goes_on_on_a_new_one(
    blocks: Path, tmp_path: Path, tell: Tell
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(whole, blocks).wait(150) == 0
    with heading(cpus=2) as head:
        process = start(broken, blocks, **head.environment)
        wait_until_both_train(process, broken)
        began = time.monotonic()
        head.find("gcs_server").kill()
        status = process.wait(150)
        seconds = time.monotonic() - began
    grid = read_grid(Location.of(broken / "grid"))
    assert status == 1
    assert grid.state in (State.FAILED, State.STOPPED)
    assert grid.reason.startswith("Ray's head at "), grid.reason
    assert seconds < RAYS_OWN_SECONDS
    assert start(broken, blocks, "--resume").wait(150) == 0
    assert read_table(broken) == read_table(whole)
    tell("Ray: the head of a grid is killed", "ended", seconds, "steps since the last checkpoint", grid.reason)
