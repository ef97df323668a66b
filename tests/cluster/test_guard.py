"""The guard cancels the shutdown in UserData, also when the cloud schedules it after the guard has started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.launcher import CLUSTER
from tests.cluster.test_scripts import wait_for, write_program


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Path]:
    """A home whose `shutdown` keeps its plan in a file, as systemd does, and on which Ray runs once `ray` is there."""
    bin_ = tmp_path / "bin"
    write_program(bin_, "sudo", '"$@"')
    plan = f'[ "$1" = -c ] && {{ rm -f {tmp_path}/plan; exit; }}\ntouch {tmp_path}/plan'
    write_program(bin_, "shutdown", plan)
    write_program(bin_, "pgrep", f"[ -e {tmp_path}/ray ]")
    environment = {"HOME": str(tmp_path), "PATH": f"{bin_}:/usr/bin:/bin", "WORLDMODEL_GUARD_SECONDS": "0.1"}
    subprocess.run(["bash", str(CLUSTER / "guard.sh"), "start", "30"], env=environment, check=True)
    yield tmp_path
    os.kill(int((tmp_path / ".worldmodel/guard.pid").read_text()), signal.SIGTERM)


def plan_shutdown(machine: Path) -> Path:
    """What the machine's UserData does, late."""
    (machine / "plan").touch()
    return machine / "plan"


def test_a_shutdown_that_is_planned_late_is_cancelled(machine: Path) -> None:
    plan = plan_shutdown(machine)
    (machine / "ray").touch()
    end = time.monotonic() + 10
    while plan.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not plan.exists(), "the machine would end at 60 minutes, as if it had been reclaimed"


def test_a_shutdown_stays_planned_while_no_ray_runs(machine: Path) -> None:
    plan = plan_shutdown(machine)
    assert not wait_for(machine / "never", 1.0)
    assert plan.exists(), "it covers a set-up that fails"
