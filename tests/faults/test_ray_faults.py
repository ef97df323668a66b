"""A Ray head that is killed, alone or with all its workers: the run ends with the cause, and goes on on a new head."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import Tell
from tests.faults.ray_head import Head, heading
from tests.faults.small_runs import ask, end_alike, start, wait_for_step, write_experiment
from worldmodel.cli.main import main
from worldmodel.run.certificate import certify
from worldmodel.run.record import State
from worldmodel.run.run_folder import read_written
from worldmodel.storage import Location

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.xdist_group("ray"), pytest.mark.timeout(400)]
EPOCHS = 15
"""So many that the head can be killed well before the last."""
SETTINGS = {"batch_parts": 2, "num_epochs": EPOCHS, "rollout_starts": 4}
"""With two parts, one worker and two learn the same to the last bit."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, blocks: Path) -> Location:
    """The same run, by one worker, without a cluster."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert main(ask(write_experiment(folder, "run", **SETTINGS), blocks, str(folder / "runs"))) == 0
    return Location.of(folder / "runs" / "run")


FAULTS: dict[str, Callable[[Head], object]] = {
    "Ray: the head and all its workers are killed": lambda head: head.kill(),
    "Ray: the head's control process alone is killed": lambda head: head.find("gcs_server").kill(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_whose_ray_head_dies_ends_within_a_minute_and_goes_on_on_a_new_one(
    undisturbed: Location, blocks: Path, tmp_path: Path, tell: Tell, fault: str
) -> None:
    storage = tmp_path / "runs"
    run = Location.of(storage / "run")
    asked = [*ask(write_experiment(tmp_path, "run", **SETTINGS), blocks, str(storage)), "--workers", "2"]
    with heading(cpus=2) as head:
        process = start(asked, tmp_path / "log", **head.environment)
        wait_for_step(run, 30)
        began = time.monotonic()
        FAULTS[fault](head)
        status = process.wait(150)
        seconds = time.monotonic() - began
        said = (tmp_path / "log").read_text()
    record = certify(run)
    assert status == 1, said
    assert seconds < 60
    assert record.state in (State.FAILED, State.STOPPED)
    assert record.reason.removeprefix("HeadLostError: ").startswith("Ray's head at "), record.reason
    assert read_written(run) == record  # the driver has written it, or the first worker
    with heading(cpus=2) as head:
        again = start([*asked, "--resume"], tmp_path / "log", **head.environment)
        assert again.wait(150) == 0, (tmp_path / "log").read_text()
    assert end_alike(run, undisturbed)
    is_saved = record.state is State.STOPPED
    lost = "nothing: the first worker saved itself" if is_saved else "steps since the last epoch"
    tell(fault, "ended", seconds, lost, record.reason)
