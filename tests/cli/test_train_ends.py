"""How runs of `worldmodel train` end before their time, and go on."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.tiny_train import read_files, slow_down, take_newest, write_experiment
from worldmodel.cli.main import main
from worldmodel.run.run_folder import read_record
from worldmodel.run.tracking import read_metrics
from worldmodel.storage import Location
from worldmodel.training.feed import Batch, Feed

pytestmark = pytest.mark.usefixtures("no_key")


@pytest.fixture
def after_step() -> Iterator[Any]:
    """Calls an action once a run has done some steps."""
    threads: list[threading.Thread] = []

    def watch(run: Path, step: int, action: Any) -> None:
        def wait() -> None:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                if any(row["step"] >= step for row in read_metrics(Location.of(run))):
                    action()
                    return
                time.sleep(0.01)

        threads.append(threading.Thread(target=wait, daemon=True))
        threads[-1].start()

    yield watch
    for thread in threads:
        thread.join(5)


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGTERM, "SIGTERM: the process was asked to end"), (signal.SIGINT, "Ctrl-C")]
)
def test_a_signal_saves_a_checkpoint_and_the_resumed_run_equals_an_uninterrupted_one(
    finished: Path, blocks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], after_step: Any, number: int,
    reason: str,
) -> None:  # fmt: skip
    path = write_experiment(tmp_path, tracking={"wandb": "disabled"})
    asked = ["train", str(path), "--data", str(blocks), "--storage", str(tmp_path)]
    after_step(tmp_path / "tiny", 3, lambda: os.kill(os.getpid(), number))
    assert main(asked) == 130
    record = read_record(Location.of(tmp_path / "tiny"))
    assert record.state == "stopped"
    assert reason in record.reason
    assert 3 <= record.step < (record.total_steps or 0)
    saved = take_newest(tmp_path / "tiny")
    assert saved.state.step == record.step
    assert {"stop", "epoch"} & {*saved.state.tags}  # an epoch's last step had been saved already
    assert "--resume" in capsys.readouterr().out
    assert "stopped" in (tmp_path / "tiny/card.md").read_text()
    assert main([*asked, "--resume"]) == 0
    resumed, expected = take_newest(tmp_path / "tiny"), take_newest(finished / "tiny")
    assert all(torch.equal(resumed.weights[name], value) for name, value in expected.weights.items())
    assert all(torch.equal(resumed.optimizer[name], value) for name, value in expected.optimizer.items())
    assert resumed.state.best == expected.state.best
    mine, theirs = (
        {
            n: v
            for n, v in read_metrics(Location.of(run))[-1].items()
            if "/" in n and not n.startswith(("speed", "batch"))
        }
        for run in (tmp_path / "tiny", finished / "tiny")
    )
    assert mine == theirs
    assert f"resumed from step-{record.step:08d}" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--budget-usd", "--budget-hours"])
def test_a_budget_stops_a_run_well_and_the_resumed_run_equals_an_uninterrupted_one(
    finished: Path, blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    option: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("WORLDMODEL_PRICE_PER_HOUR", "3600")  # a dollar a second
    limit = 0.7 if option == "--budget-usd" else 0.7 / 3600
    path = write_experiment(tmp_path, tracking={"wandb": "disabled"})
    asked = ["train", str(path), "--data", str(blocks), "--storage", str(tmp_path)]
    with pytest.MonkeyPatch.context() as patch:
        slow_down(patch, 0.15)
        assert main([*asked, option, f"{limit:g}"]) == 130
    record = read_record(Location.of(tmp_path / "tiny"))
    assert record.state == "stopped"
    assert record.reason.startswith("budget of ")
    assert 0 < record.step < (record.total_steps or 0)
    assert 0.7 <= record.seconds.total == pytest.approx(record.cost_usd)
    saved = take_newest(tmp_path / "tiny")
    assert saved.state.step == record.step
    assert {"stop", "epoch"} & {*saved.state.tags}  # an epoch's last step had been saved already
    assert float(record.resume_command.split(option)[1]) > limit
    assert record.resume_command in capsys.readouterr().out
    before = read_files(tmp_path)
    assert main([*asked, option, f"{limit:g}", "--resume"]) == 2
    assert re.search(f"cannot go on: budget of .* ask for more, such as {option}", capsys.readouterr().err)
    assert read_files(tmp_path) == before
    assert main([*asked, option, f"{100 * limit:g}", "--resume"]) == 0
    resumed, expected = take_newest(tmp_path / "tiny"), take_newest(finished / "tiny")
    assert all(torch.equal(resumed.weights[name], value) for name, value in expected.weights.items())
    assert all(torch.equal(resumed.optimizer[name], value) for name, value in expected.optimizer.items())
    later = read_record(Location.of(tmp_path / "tiny"))
    assert (later.seconds_before, later.cost_before_usd) == (record.seconds.total, record.cost_usd)
    assert later.cost_usd == pytest.approx(later.seconds.total)


def test_a_resume_to_another_length_says_what_becomes_of_the_learning_rate(
    blocks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_experiment(tmp_path, tracking={"wandb": "disabled"})
    asked = ["train", str(path), "--data", str(blocks), "--storage", str(tmp_path)]
    assert main([*asked, "--epochs", "1"]) == 0
    steps = read_record(Location.of(tmp_path / "tiny")).step
    assert "learning rate" not in capsys.readouterr().err
    assert main([*asked, "--epochs", "3", "--resume"]) == 0
    said = f"the run was to have {steps} steps (1 epochs), from step {steps} on it has {3 * steps} (3 epochs)"
    assert said in capsys.readouterr().err
    assert any(said in note for note in read_record(Location.of(tmp_path / "tiny")).notes)
    assert main([*asked, "--epochs", "3", "--resume"]) == 0
    assert "learning rate" not in capsys.readouterr().err


def test_a_failing_run_says_why_everywhere(
    blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clean = Feed.batches

    def batches(self: Feed, step: int) -> list[Batch]:
        first, *others = clean(self, step)
        bad = first.inputs.floats + (math.nan if step == 5 else 0.0)
        return [dataclasses.replace(first, inputs=dataclasses.replace(first.inputs, floats=bad)), *others]

    monkeypatch.setattr(Feed, "batches", batches)
    path = write_experiment(tmp_path, tracking={"wandb": "disabled"})
    asked = ["train", str(path), "--data", str(blocks), "--storage", str(tmp_path)]
    began = time.monotonic()
    assert main(asked) == 1
    assert time.monotonic() - began < 30
    record = read_record(Location.of(tmp_path / "tiny"))
    assert record.state == "failed"
    assert record.reason.startswith("NonFiniteError: ")
    assert "at step 6 " in record.reason
    assert "_close_interval" in record.traceback
    assert any(line.startswith("step 3/") for line in record.last_lines)
    card = (tmp_path / "tiny/card.md").read_text()
    assert "NonFiniteError" in card
    assert "--resume" in card
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert f"{tmp_path}/tiny keeps what happened" in said
