"""A W&B that hangs, refuses or has no room costs a run no number and, at its end, less than a minute."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.faults.conftest import Tell
from tests.faults.object_storage import find_ports
from tests.faults.small_disk import mounting
from tests.faults.small_runs import act_before, are_same, ask, start, train, write_experiment
from tests.faults.wandb_server import WandbServer, serving
from worldmodel.cli.main import main
from worldmodel.run.record import State
from worldmodel.run.run_folder import read_record
from worldmodel.storage import Location

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("wandb")]
KINDS = {
    "401 at the start": "W&B: refuses the key (401)", "500 at the start": "W&B: answers 500",
    "hang at the start": "W&B: does not answer", "nobody": "W&B: nobody listens at its address",
    "500 later": "W&B: answers 500 from the first row on", "hang later": "W&B: does not answer from the first row on",
}  # fmt: skip
NOTES = {"start": "W&B is offline (", "nobody": "W&B is offline (", "later": "W&B did not finish within 30 s"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, blocks: Path) -> Location:
    """The same run without W&B."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert main(ask(write_experiment(folder, "run"), blocks, str(folder / "runs"))) == 0
    return Location.of(folder / "runs" / "run")


@dataclass(kw_only=True)
class Beside:
    """A run in a process of its own, beside a W&B that fails."""

    run: Location
    server: WandbServer | None
    status: int = -1
    seconds: float = 0.0
    """From its last sign of progress to the end of its process."""
    said: str = ""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, blocks: Path) -> Iterator[dict[str, Beside]]:
    """A run for each kind, all at once, for most of them wait most of the time."""
    found: dict[str, Beside] = {}
    with ExitStack() as stack:
        threads = []
        for kind in KINDS:
            folder = tmp_path_factory.mktemp("run")
            what, _, when = kind.partition(" ")
            server = stack.enter_context(serving(what, starts=when == "later")) if kind != "nobody" else None
            found[kind] = Beside(run=Location.of(folder / "runs/run"), server=server)
            threads.append(Thread(target=_train_beside, args=(found[kind], folder, blocks)))
            threads[-1].start()
            time.sleep(2)  # each imports for seconds
        for thread in threads:
            thread.join()
        yield found


def _train_beside(beside: Beside, folder: Path, blocks: Path) -> None:
    url = beside.server.url if beside.server else f"http://127.0.0.1:{find_ports(1)[0]}"
    asked = ask(write_experiment(folder, "run", wandb="auto"), blocks, str(folder / "runs"))
    process = start(asked, folder / "log", WANDB_BASE_URL=url, WANDB_API_KEY="k" * 40)
    began = time.monotonic()
    beside.status = process.wait(200)
    print(url, "took", time.monotonic() - began)
    beside.seconds = time.time() - read_record(beside.run).updated.timestamp()
    beside.said = (folder / "log").read_text()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
def test_a_wandb_that_fails_costs_a_run_no_number(
    ended: dict[str, Beside], undisturbed: Location, tell: Tell, kind: str
) -> None:
    found = ended[kind]
    assert found.status == 0, found.said
    assert found.server is None or found.server.failed
    record = read_record(found.run)
    assert record.state is State.FINISHED
    assert are_same(found.run, undisturbed)
    notes = [note for note in record.notes if note.startswith(NOTES[kind.rpartition(" ")[2]])]
    assert len(notes) == 1, record.notes
    assert found.seconds < 60
    card = (found.run / "card.md").read_text()
    assert notes[0].split(";")[0][:40] in card
    tell(
        KINDS[kind], f"survived; its process ended {found.seconds:.0f} s after its last step", None, "nothing", notes[0]
    )


@pytest.mark.parametrize("step", [0, 30], ids=["from the start", "within the run"])
def test_a_wandb_without_room_costs_a_run_no_number_and_is_told(
    undisturbed: Location, blocks: Path, tmp_path: Path, tell: Tell, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run = tmp_path / "runs/run"
    run.mkdir(parents=True)
    with mounting(8 << 20) as disk:
        (run / "wandb").symlink_to(disk.path)
        acts: dict[int, Any] = {step: lambda: _fill_soon(run, disk)} if step else {}
        if not step:
            disk.fill()
        act_before(monkeypatch, acts)
        found = train(ask(write_experiment(tmp_path, "run", wandb="offline"), blocks, str(tmp_path / "runs")), str(run))
    assert found.status == 0
    assert are_same(found.run, undisturbed)
    (note,) = [note for note in found.record.notes if "W&B failed" in note]
    assert re.search(r"rows: its disk is full|No space left on device" if step else "0 KiB free", note)
    when = "in mid-run" if step else "from the start"
    tell(f"W&B's folder: its disk full {when}", "survived", None, "nothing (W&B's own file)", note)


def _fill_soon(run: Path, disk: Any) -> None:
    """Fill W&B's disk, once it has started."""
    until = time.monotonic() + 30
    while "W&B is offline" not in "".join(read_record(Location.of(run)).notes) and time.monotonic() < until:
        time.sleep(0.05)
    disk.fill()
