"""Of two that start a run under one name at once, one trains it, and the other says so and writes nothing."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import Tell
from tests.faults.small_runs import are_same, ask, write_experiment
from tests.s3_server import use_s3
from tests.training.interruptions import fork
from worldmodel.cli.main import main
from worldmodel.run.record import State
from worldmodel.run.run_folder import read_record
from worldmodel.storage import Location

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("store")]
REFUSALS = ("is being written by a process on", "is still running on", "writes there now", "already: ")
"""What the second is told, depending on how far the first has come."""
WARNING_SECONDS = 0.3
"""Time that both are given to get ready."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, blocks: Path) -> Location:
    """The same run with nobody else there."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert main(ask(write_experiment(folder, "run"), blocks, str(folder / "runs"))) == 0
    return Location.of(folder / "runs" / "run")


def race(asked: list[str], folder: Path, head_start: float = 0.0) -> list[tuple[int, str]]:
    """Exit status and output of two processes that begin at the same moment, or the second one a little later."""
    begin = time.monotonic() + WARNING_SECONDS
    fork([_make_racer(asked, folder / f"said-{n}", begin + n * head_start) for n in range(2)])
    return [_read(folder / f"said-{n}") for n in range(2)]


def _make_racer(asked: list[str], out: Path, begin: float) -> Callable[[], None]:
    def work() -> None:
        with out.open("w") as stream:
            sys.stdout = sys.stderr = stream
            while time.monotonic() < begin:
                pass
            print(f"\nstatus {main(asked)}", flush=True)
        os._exit(0)

    return work


def _read(out: Path) -> tuple[int, str]:
    said, _, status = out.read_text().rpartition("\nstatus ")
    return int(status), said


def check_one_trained(run: Location, found: list[tuple[int, str]], undisturbed: Location) -> None:
    assert sorted(status for status, _ in found) == [0, 2], found
    said = next(said for status, said in found if status == 2)
    assert any(text in said for text in REFUSALS), said
    assert read_record(run).state is State.FINISHED
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines() if "batch/" in line]
    assert len(steps) == len(set(steps))  # nobody has trained a step again
    assert are_same(run, undisturbed)


@pytest.mark.parametrize("head_start", [0.0, 0.0, 0.0, 0.0, 0.05, 0.2, 0.8])
def test_of_two_that_begin_at_once_one_trains(
    undisturbed: Location, blocks: Path, tmp_path: Path, tell: Tell, head_start: float
) -> None:
    storage = tmp_path / "runs"
    found = race(ask(write_experiment(tmp_path, "run"), blocks, str(storage)), tmp_path, head_start)
    check_one_trained(Location.of(storage / "run"), found, undisturbed)
    if not head_start:
        tell("two processes start a run of one name at once", "survived; the second is refused", None, "nothing", "")


@pytest.mark.parametrize("head_start", [0.0, 0.0, 0.3])
def test_of_two_that_resume_at_once_one_trains(
    undisturbed: Location, blocks: Path, tmp_path: Path, tell: Tell, head_start: float
) -> None:
    storage = tmp_path / "runs"
    short = [*ask(write_experiment(tmp_path, "run", schedule="constant"), blocks, str(storage)), "--epochs"]
    assert main([*short, "1"]) == 0
    found = race([*short, "2", "--resume"], tmp_path, head_start)
    whole = tmp_path / "whole"
    assert main([*ask(tmp_path / "run.yaml", blocks, str(whole)), "--epochs", "2"]) == 0
    check_one_trained(Location.of(storage / "run"), found, Location.of(whole / "run"))
    tell("two processes resume a run at once", "survived; the second is refused", None, "nothing", "")


@pytest.mark.parametrize("round", range(2))
def test_of_two_that_begin_at_once_in_an_object_store_one_trains(
    weed: str, undisturbed: Location, blocks: Path, tmp_path: Path, tell: Tell, monkeypatch: pytest.MonkeyPatch,
    round: int,
) -> None:  # fmt: skip
    use_s3(monkeypatch, weed)
    storage = f"s3://games/{tmp_path.name}"
    found = race(ask(write_experiment(tmp_path, "run"), blocks, storage), tmp_path)
    check_one_trained(Location.of(storage) / "run", found, undisturbed)
    tell(
        "two processes start a run of one name in an object store",
        "survived; the second is refused",
        None,
        "nothing",
        "",
    )
