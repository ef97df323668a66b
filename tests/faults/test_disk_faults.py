"""A disk without room: what is saved by time waits for room, what must be saved ends the run, and nothing is torn."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Tell
from tests.faults.small_disk import Quota, SmallDisk, mounting
from tests.faults.small_runs import act_before, are_same, ask, train, write_experiment
from worldmodel.cli.main import main
from worldmodel.run.certificate import certify
from worldmodel.run.record import State
from worldmodel.run.run_folder import read_written
from worldmodel.storage import Location
from worldmodel.training.checkpoint import load_checkpoint
from worldmodel.training.checkpoint_list import list_checkpoints

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("disk")]
DISK_BYTES = 8 << 20
QUOTA_BYTES = 32 << 10
"""Enough for a record and a log, and too little for the smallest of checkpoints."""
EVERY_STEP = 1e-6
"""Minutes between two checkpoints."""


@pytest.fixture(params=["disk", "quota"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SmallDisk | Quota]:
    """Where runs lie, and what can be filled."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if request.param == "quota":
        quota = Quota(path=tmp_path, bytes=QUOTA_BYTES)
        yield quota
        quota.make_room()
        return
    with mounting(DISK_BYTES) as disk:
        yield disk


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, blocks: Path) -> dict[str, Location]:
    """The runs of two epochs with room for everything: with a checkpoint at every step, and as it comes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for name, settings in (("often", {"checkpoint_minutes": EVERY_STEP}), ("seldom", {})):
        assert main(ask(write_experiment(folder, name, **settings), blocks, str(folder / "runs"))) == 0
    return {name: Location.of(folder / "runs" / name) for name in ("often", "seldom")}


def describe(place: SmallDisk | Quota) -> str:
    """What failed, for the table."""
    return "disk full" if isinstance(place, SmallDisk) else "files limited to 16 KiB (a quota)"


def test_a_disk_that_is_full_for_a_while_costs_checkpoints_and_nothing_else(
    place: SmallDisk | Quota, undisturbed: dict[str, Location], blocks: Path, tmp_path: Path, tell: Tell,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    act_before(monkeypatch, {6: place.fill, 12: place.make_room})
    experiment = write_experiment(tmp_path, "run", checkpoint_minutes=EVERY_STEP)
    found = train(ask(experiment, blocks, str(place.path / "runs")), str(place.path / "runs/run"))
    assert found.status == 0
    assert are_same(found.run, undisturbed["often"])
    assert capfd.readouterr().out.count("warning: no checkpoint at step") == 6  # those of steps 7 to 12
    notes = [note for note in found.record.notes if "could be saved" in note]
    assert len(notes) == 1 and "first at step 7: cannot write" in notes[0]
    names = [c.name for c in list_checkpoints(undisturbed["often"])]
    assert [c.name for c in list_checkpoints(found.run)] == names
    for checkpoint in list_checkpoints(found.run):
        load_checkpoint(checkpoint)
    tell(f"{describe(place)} for six steps", "survived", None, "the checkpoints by time of these steps", notes[0])


def test_a_disk_that_is_full_at_an_epochs_end_ends_the_run_and_it_goes_on_when_there_is_room(
    place: SmallDisk | Quota, undisturbed: dict[str, Location], blocks: Path, tmp_path: Path, tell: Tell,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    first = list_checkpoints(undisturbed["seldom"])[0]
    steps = int(first.name.removeprefix("step-"))
    filled = act_before(monkeypatch, {steps + 3: place.fill})
    asked = ask(write_experiment(tmp_path, "run"), blocks, str(place.path / "runs"))
    run = Location.of(place.path / "runs/run")
    assert main(asked) == 2
    seconds = time.monotonic() - filled[0]
    assert seconds < 60
    said = capfd.readouterr().err
    assert f"error: cannot write {run}/checkpoints/step-" in said
    assert ("it is kept in" in said) == isinstance(place, SmallDisk)  # with a quota it stands in the folder
    assert [c.name for c in list_checkpoints(run)] == [first.name]
    load_checkpoint(list_checkpoints(run)[0])
    record = certify(run)  # told before there is room for it in the folder
    assert record.state is State.FAILED
    assert "cannot write" in record.reason and record.step == 2 * steps
    place.make_room()
    assert certify(run).reason == record.reason
    assert read_written(run).reason == record.reason
    assert main([*asked, "--resume"]) == 0
    assert are_same(run, undisturbed["seldom"])
    tell(f"{describe(place)} at an epoch's end", "ended", seconds, f"{steps} steps since the last epoch", record.reason)
