"""`worldmodel train --workers 2`: two processes of Ray Train do what one does, and end as well."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from tests.games_on_disk import encode_toy_games
from worldmodel.cli.main import main
from worldmodel.run.record import RunRecord
from worldmodel.run.run_folder import read_record
from worldmodel.run.tracking import read_metrics
from worldmodel.storage import Location
from worldmodel.training.checkpoint import load_checkpoint
from worldmodel.training.checkpoint_list import list_checkpoints, newest_good

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]
ENDLESS = 400
"""Epochs of a run that is to be ended."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with encoded games; Ray, once started, serves all tests here."""
    folder = tmp_path_factory.mktemp("place")
    encode_toy_games(folder)
    yield folder
    import ray

    ray.shutdown()


def ask(folder: Path, name: str, workers: int, **training: Any) -> list[str]:
    """The arguments of a small run; dropout, which parts of a batch draw for themselves, only where there are parts."""
    values = {
        "model": {
            "d_model": 32, "d_state": 8, "headdim": 16, "n_layers": 1,
            "dropout": 0.1 if "batch_parts" in training else 0.0,
        },
        "training": {
            "sequence_length": 64, "batch_size": 16, "num_epochs": 1, "device": "cpu", "threads": 1, "log_interval": 4,
            "amp": False, "test_split": 0.0, **training,
        },
        "tracking": {"wandb": "disabled"},
    }  # fmt: skip
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    storage = ["--storage", str(folder / "runs"), "--data", str(folder / "blocks")]
    return ["train", str(folder / f"{name}.yaml"), "--workers", str(workers), *storage]


@pytest.mark.parametrize("settings", [{}, {"amp": True, "batch_parts": 2}], ids=["whole", "parts"])
def test_two_workers_train_what_one_trains(
    place: Path, capfd: pytest.CaptureFixture[str], settings: dict[str, Any]
) -> None:
    rows, weights = {}, {}
    for workers in (1, 2):
        name = f"{'parts' if settings else 'whole'}-{workers}"
        assert main(ask(place, name, workers, **settings)) == 0
        run = Location.of(place / "runs" / name)
        rows[workers], weights[workers] = read_metrics(run), load_checkpoint(list_checkpoints(run)[-1]).weights
    if settings:  # the same parts in the same order: not a bit may differ
        assert all(torch.equal(weights[2][name], value) for name, value in weights[1].items())
    assert [row["step"] for row in rows[1]] == [row["step"] for row in rows[2]]
    for one, two in zip(rows[1], rows[2], strict=True):
        names = [name for name in one if name.startswith(("batch/", "val_loss", "val_metric", "loss", "lr", "metric"))]
        assert {name: two[name] for name in names} == pytest.approx({n: one[n] for n in names}, rel=1e-3, abs=1e-3)
    assert rows[2][-1]["val_metric/targets"] == rows[1][-1]["val_metric/targets"]
    shown = capfd.readouterr()
    assert len(re.findall(r"^epoch 1 validated", shown.out, re.MULTILINE)) == 2
    for noise in ("pid=", "PlacementGroupCleaner", "TrainController", "Requesting resources"):
        assert noise not in shown.out + shown.err


def run_until(arguments: list[str], run: Path, act: Callable[[RunRecord], None]) -> tuple[int, float]:
    """Exit status of a run in which `act` happens once it has done some steps, and seconds from then to its end."""
    acted: list[float] = []

    def wait() -> None:
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            if any(row["step"] >= 8 for row in read_metrics(Location.of(run))):
                acted.append(time.monotonic())
                act(read_record(Location.of(run)))
                return
            time.sleep(0.02)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    status = main(arguments)
    thread.join(5)
    return status, time.monotonic() - acted[0]


def find_workers() -> list[int]:
    """Process ids of the workers."""
    return [p.pid for p in psutil.Process().children(recursive=True) if "ray::RayTrainWorker" in " ".join(p.cmdline())]


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_goes_on_by_itself_after_a_worker_is_killed(
    place: Path, capfd: pytest.CaptureFixture[str], rank: int
) -> None:
    def kill(record: RunRecord) -> None:
        doomed = record.pid if rank == 0 else next(pid for pid in find_workers() if pid != record.pid)
        os.kill(doomed, signal.SIGKILL)

    settings, runs = {"num_epochs": 20, "batch_parts": 2}, place / "runs"
    assert main(ask(place, f"whole-of-{rank}", 1, **settings)) == 0
    status, _ = run_until(ask(place, f"killed-{rank}", 2, **settings), runs / f"killed-{rank}", kill)
    assert status == 0
    record = read_record(Location.of(runs / f"killed-{rank}"))
    assert (record.state, len(record.interruptions), record.starts) == ("finished", 1, 2)
    assert record.interruptions[0].resumed_step <= record.interruptions[0].step
    whole, killed = (load_checkpoint(list_checkpoints(Location.of(runs / f"{name}-{rank}"))[-1]) for name in
                     ("whole-of", "killed"))  # fmt: skip
    assert killed.digest == whole.digest
    assert "resumed automatically after" in capfd.readouterr().out
    assert "resumed automatically" in (runs / f"killed-{rank}" / "card.md").read_text()


def test_a_signal_to_the_driver_stops_all_workers_with_a_checkpoint(
    place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ask(place, "stopped", 2, num_epochs=ENDLESS)
    file = place / "stopped.yaml"
    file.write_text(file.read_text().replace("wandb: disabled", "wandb: auto"))
    monkeypatch.setenv("WANDB_MODE", "disabled")  # set after Ray has started: it reaches the workers all the same
    status, seconds = run_until(arguments, place / "runs/stopped", lambda record: os.kill(os.getpid(), signal.SIGTERM))
    assert status == 130
    assert seconds < 30
    record = read_record(Location.of(place / "runs/stopped"))
    assert record.state == "stopped"
    assert "SIGTERM" in record.reason
    assert not (place / "runs/stopped/wandb").exists()
    assert list((place / "runs/.ray").glob("stopped-*")) == []
    newest = newest_good(Location.of(place / "runs/stopped")).checkpoint
    assert newest is not None
    assert (newest.state.step, newest.state.tags[-1]) == (record.step, "stop")
    assert "--resume" in capfd.readouterr().out


def test_a_budget_stops_all_workers_with_a_checkpoint(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLDMODEL_PRICE_PER_HOUR", "3600")
    assert main([*ask(place, "poor", 2, num_epochs=ENDLESS), "--budget-usd", "6"]) == 130
    record = read_record(Location.of(place / "runs/poor"))
    assert record.state == "stopped"
    assert record.reason.startswith("budget of $6 reached")
    newest = newest_good(Location.of(place / "runs/poor")).checkpoint
    assert newest is not None
    assert newest.state.step == record.step


def test_an_error_in_the_workers_comes_out_as_itself(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ask(place, "diverged", 2, num_epochs=ENDLESS, lr=1e30, clip=1e30, warmup_pct=0.0)
    assert main(arguments) == 1
    record = read_record(Location.of(place / "runs/diverged"))
    assert (record.state, record.reason.split(":")[0]) == ("failed", "NonFiniteError")
    assert "_close_interval" in record.traceback
    assert "NonFiniteError" in capfd.readouterr().err
