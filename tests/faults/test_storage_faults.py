"""An object store that fails: what passes is survived to the bit, what stays ends the run with the cause on record."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Tell
from tests.faults.object_storage import FaultyProxy, Judge, Request, proxying
from tests.faults.small_runs import LONG, are_same, ask, start, train, wait_for_step, write_experiment
from tests.s3_server import use_s3
from worldmodel.cli.main import main
from worldmodel.object_store import StorageError
from worldmodel.run.certificate import certify
from worldmodel.run.record import State
from worldmodel.storage import Location
from worldmodel.training.checkpoint_list import list_checkpoints, newest_good

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("store")]
NAMES = {
    "500": "answers 500", "503": "answers 503 (slow down)", "slow": "answers a second late",
    "cut": "cuts the connection within its answer", "drop": "closes the connection without an answer",
    "hang": "does not answer",
}  # fmt: skip


@pytest.fixture
def proxy(weed: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A real S3 server, to be reached only through a proxy that fails on demand."""
    with proxying(weed) as found:
        use_s3(monkeypatch, found.url)
        monkeypatch.setattr("worldmodel.object_store._silence._until", 0.0)
        yield found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, blocks: Path) -> Location:
    """The same run on a local disk, where nothing fails."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert main(ask(write_experiment(folder, "run"), blocks, str(folder / "runs"))) == 0
    return Location.of(folder / "runs" / "run")


def make_passing(kind: str, every: int) -> Judge:
    """A fault for one request in so many, but not for one that has just failed: it is asked again, and answered."""
    failed: set[tuple[str, str]] = set()

    def judge(request: Request) -> str | None:
        asked = (request.method, request.path)
        if request.number % every == every - 1 and asked not in failed:
            failed.add(asked)
            return kind
        failed.discard(asked)
        return None

    return judge


@pytest.mark.parametrize("kind", NAMES)
def test_a_store_that_fails_now_and_then_costs_nothing_but_time(
    proxy: FaultyProxy, undisturbed: Location, blocks: Path, tmp_path: Path, tell: Tell, kind: str
) -> None:
    every = 12 if kind == "hang" else 4
    proxy.judge = make_passing(kind, every)
    storage = f"s3://games/{tmp_path.name}"
    found = train(ask(write_experiment(tmp_path, "run"), blocks, storage), f"{storage}/run")
    proxy.judge = lambda request: None
    assert found.status == 0
    assert proxy.faults[kind] >= 3
    assert are_same(found.run, undisturbed)
    assert [c.name for c in list_checkpoints(found.run)] == [c.name for c in list_checkpoints(undisturbed)]
    fault = f"object store: {NAMES[kind]} to every {every}th request, to none twice in a row"
    tell(fault, "survived", None, "nothing: the same weights, bit for bit", "; ".join(found.record.notes))


@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", ["503", "drop", "hang"])
def test_a_store_that_is_gone_ends_the_run_within_a_minute_and_the_cause_is_kept(
    proxy: FaultyProxy, blocks: Path, tmp_path: Path, tell: Tell, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    storage = f"s3://games/{tmp_path.name}"
    experiment = write_experiment(tmp_path, "run", num_epochs=LONG)
    run = Location.of(f"{storage}/run")
    process = start(ask(experiment, blocks, storage), tmp_path / "log", TMPDIR=str(tmp_path))
    before = wait_for_step(run, 30)  # the first epoch's checkpoint is there
    kept = newest_good(run)
    proxy.judge = lambda request: kind
    began = time.monotonic()
    status = process.wait(120)
    seconds = time.monotonic() - began
    proxy.judge = lambda request: None
    said = (tmp_path / "log").read_text()
    assert status == 2, said
    assert "cannot" in said and str(run) in said
    assert seconds < 60
    record = certify(run)
    assert record.state is State.FAILED, record
    assert "cannot" in record.reason and "s3://games" in record.reason
    assert kept.location in list_checkpoints(run) and newest_good(run).checkpoint is not None
    lost = f"steps since the last checkpoint (of {before.step})"
    tell(f"object store: {NAMES[kind]} to every request, for good", "ended", seconds, lost, record.reason)


def test_a_write_that_fails_leaves_the_older_object(proxy: FaultyProxy, tmp_path: Path) -> None:
    place = Location.of(f"s3://games/{tmp_path.name}/run.json")
    place.write_text("older")
    (tmp_path / "newer").write_text("newer")
    for act in (lambda: place.write_text("newer"), lambda: place.upload(tmp_path / "newer")):
        proxy.judge = lambda request: "500" if request.method in ("PUT", "POST") else None
        with pytest.raises(StorageError):
            act()
        proxy.judge = lambda request: None
        assert place.read_text() == "older"


def test_who_is_interrupted_while_writing_replaces_an_object_whole_or_not_at_all(
    proxy: FaultyProxy, tmp_path: Path
) -> None:
    place = Location.of(f"s3://games/{tmp_path.name}/run.json")
    place.write_text("older")
    with pytest.raises(KeyboardInterrupt), place.open_output() as stream:
        stream.write(b"half")
        raise KeyboardInterrupt
    assert not place.exists() or place.read_text() == "older"


def test_a_silent_store_is_waited_for_once(proxy: FaultyProxy, tmp_path: Path) -> None:
    """What ends a run writes metrics, log, record and card: each would wait in vain as long as the first."""
    place = Location.of(f"s3://games/{tmp_path.name}/run.json")
    place.write_text("older")
    proxy.judge = lambda request: "hang"
    seconds = []
    for _ in range(4):
        began = time.monotonic()
        with pytest.raises(StorageError):
            place.read_text()
        seconds.append(time.monotonic() - began)
    assert max(seconds[1:]) < 4 and sum(seconds) < 30, seconds
