"""What the run folder says of a training under way."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.s3_server import serve_s3, use_s3
from tests.training.tiny_runs import CPU, configure, open_data, write_blocks
from worldmodel.cli.runs import describe_run, render_row
from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig, TrackingConfig
from worldmodel.experiment.config_file import as_values, to_yaml
from worldmodel.object_store import StorageError
from worldmodel.run import journal as journal_module
from worldmodel.run.card import CARD, write_card
from worldmodel.run.journal import Journal
from worldmodel.run.log_file import LOG, TIME
from worldmodel.run.record import State
from worldmodel.run.run import RECORD, Run
from worldmodel.run.run_folder import FoundRun, read_record, start_run
from worldmodel.run.tracking import Tracker, read_metrics
from worldmodel.storage import Location
from worldmodel.training.checkpoint_list import list_checkpoints, newest_good, read_best
from worldmodel.training.feed import Batch
from worldmodel.training.job import Job, make_trainer
from worldmodel.training.workers import Workers


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blocks(tmp_path_factory.mktemp("games"))


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with serve_s3() as url:
        yield url


def read_log(location: Location) -> tuple[list[datetime], list[str]]:
    """Times and texts of the lines of a run's log."""
    lines = (location / LOG).read_text().splitlines()
    width = len(datetime.now().strftime(TIME))
    return [datetime.strptime(line[:width], TIME).replace(tzinfo=UTC) for line in lines], [
        x[width + 1 :] for x in lines
    ]


def train(run: Run, config: ExperimentConfig, blocks: Path, *, resume: bool = False) -> str:
    """Train with a journal; returns what it showed."""
    shown = io.StringIO()
    job = Job(
        config=to_yaml(config), run=str(run.location), blocks=str(blocks), workers=1, resume=resume, init=""
    )  # fmt: skip
    with run.recording(), Journal(run, config, shown) as journal:
        trainer, recovery = make_trainer(job, config, Workers(device=CPU))
        journal.begin(trainer, recovery)
        trainer.run(journal.hooks)
    return shown.getvalue()


def test_record_metrics_and_checkpoints_agree(blocks: Path, tmp_path: Path) -> None:
    config = configure({"training.log_interval": 4})
    run = start_run(Location.of(tmp_path), config, data_fingerprint="abc")
    shown = train(run, config, blocks)
    record, rows = read_record(run.location), read_metrics(run.location)
    saved = newest_good(run.location).checkpoint
    assert saved is not None
    assert record.step == record.total_steps == saved.state.step == rows[-1]["step"]
    assert {name: record.metrics[name] for name in rows[-1] if "/" in name} == {
        name: value for name, value in rows[-1].items() if "/" in name
    }
    assert saved.state.data_fingerprint == "abc"
    assert saved.state.config == as_values(config)
    assert record.best == read_best(run.location) == saved.state.best
    assert record.checkpoint == f"checkpoints/{list_checkpoints(run.location)[-1].name}"
    assert shown.count("validated:") == config.training.num_epochs
    assert f"step {record.step}/{record.total_steps} 100%" in shown


def test_a_run_says_on_how_many_games_it_was_validated(blocks: Path, tmp_path: Path) -> None:
    config = configure({"training.validation_games": 1})
    run = start_run(Location.of(tmp_path), config)
    assert "| validated on 1 of 2 games" in train(run, config, blocks)
    assert run.record.validated == "validated on 1 of 2 games"
    write_card(run.location)
    assert "Each epoch was validated on 1 of 2 games" in (run.location / CARD).read_text()
    assert "1 of 2 games" in render_row(describe_run("a", FoundRun(location=run.location, record=run.record)))["best"]


def test_a_resume_says_where_it_goes_on_and_mends_the_pointer_to_the_best(blocks: Path, tmp_path: Path) -> None:
    one, two = configure({"training.num_epochs": 1}), configure()
    run = start_run(Location.of(tmp_path), one)
    train(run, one, blocks)
    best = read_best(run.location)
    assert best is not None
    (run.location / "checkpoints/best.json").delete()  # as if it had died before this was written
    resumed = start_run(Location.of(tmp_path), two, resume=True)
    half = resumed.record.step
    shown = train(resumed, two, blocks, resume=True)
    assert f"resumed from step-{half:08d}: step {half} of {2 * half}\n" in shown
    before, after = re.findall(r"  (?:before|after): +(.*)", shown)
    position = re.fullmatch(
        rf"step {half}, next learning rate (\S+), next batch 0 of epoch 2, checkpoint ([0-9a-f]{{12}})", after
    )
    assert position
    assert re.sub("rate [^,]*", "rate", before) == re.sub("rate [^,]*", "rate", after)  # the schedule is longer now
    assert float(position[1]) > 0
    found = read_best(run.location)
    assert found is not None
    assert (found == best) == (found.step == half)
    assert [row["epoch"] for row in read_metrics(run.location) if "val_loss/total" in row] == [1, 2]


def test_an_epoch_is_never_shown_with_the_value_of_another(
    blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure({"training.num_epochs": 3})
    run, name = start_run(Location.of(tmp_path), config), config.training.best_metric
    shown, note_step = set[tuple[int, float | None]](), run.note_step

    def listen(step: int, **changes: Any) -> None:
        note_step(step, **changes)
        shown.add((run.record.epoch, run.record.metrics.get(name)))

    monkeypatch.setattr(run, "note_step", listen)
    train(run, config, blocks)
    found = {(round(row["epoch"]), row[name]) for row in read_metrics(run.location) if name in row}
    assert shown == {(0, None), *found}
    assert len(found) == 3


def test_a_resume_knows_the_epoch_whose_checkpoint_was_saved_before_the_run_died(blocks: Path, tmp_path: Path) -> None:
    config = configure({"training.num_epochs": 1})
    run = start_run(Location.of(tmp_path), config)
    train(run, config, blocks)
    saved = read_record(run.location)
    older = saved.model_copy(update={"epoch": 0, "metrics": {}, "state": State.FAILED})
    (run.location / RECORD).write_text(older.model_dump_json())
    train(start_run(Location.of(tmp_path), config, resume=True), config, blocks, resume=True)
    found = read_record(run.location)
    assert (found.epoch, found.metrics) == (1, saved.metrics)


def test_a_damaged_checkpoint_is_passed_over_and_said_so(blocks: Path, tmp_path: Path) -> None:
    config = configure()
    run = start_run(Location.of(tmp_path), config)
    train(run, config, blocks)
    newest = list_checkpoints(run.location)[-1]
    content = bytearray((newest / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "weights.safetensors").write_bytes(bytes(content))
    before = (newest / "manifest.json").read_bytes()
    shown = train(start_run(Location.of(tmp_path), config, resume=True), config, blocks, resume=True)
    assert "warning: " in shown
    assert "is damaged" in shown
    assert any("is damaged" in note for note in read_record(run.location).notes)
    files = [
        json.loads(manifest)["files"]["weights.safetensors"]
        for manifest in (before, (newest / "manifest.json").read_bytes())
    ]
    assert files[0] == files[1]  # trained again from the one before: the same bytes


def test_a_best_metric_that_nothing_counts_for_is_noted(blocks: Path, tmp_path: Path) -> None:
    config = configure({"training.best_metric": "val_action/cat_edge", "training.num_epochs": 1, "data.max_games": 2})
    run = start_run(Location.of(tmp_path), config)
    train(run, config, blocks)
    record = read_record(run.location)
    is_measured = "val_action/cat_edge" in record.metrics
    assert (record.best is not None) == is_measured
    assert any("no best" in note for note in record.notes) == (not is_measured)


def test_a_run_of_which_no_checkpoint_is_sound_does_not_begin_again_by_itself(blocks: Path, tmp_path: Path) -> None:
    config = configure({"training.num_epochs": 1})
    run = start_run(Location.of(tmp_path), config)
    train(run, config, blocks)
    (list_checkpoints(run.location)[-1] / "state.json").write_text("torn")
    with pytest.raises(UserError, match=r"no checkpoint of .* is sound; remove its checkpoints.*\n.*state.json"):
        train(start_run(Location.of(tmp_path), config, resume=True), config, blocks, resume=True)


@pytest.mark.parametrize("change", [{"model.d_model": 48}, {"data.max_games": 6}, {"encoding.press_events": True}])
def test_a_checkpoint_of_another_experiment_is_refused_and_named(
    blocks: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    one = {"training.num_epochs": 1}
    found = [open_data(config, blocks).fingerprint for config in (configure(one), configure(one, **change))]
    run = start_run(Location.of(tmp_path / "run"), configure(one), data_fingerprint=found[0])
    other = start_run(Location.of(tmp_path / "other"), configure(one, **change), data_fingerprint=found[1])
    train(run, configure(one), blocks)
    train(other, configure(one, **change), blocks)
    foreign = list_checkpoints(other.location)[-1]
    for entry in foreign.list_entries():
        (run.location / "checkpoints/step-00009999" / entry.name).write_bytes((foreign / entry.name).read_bytes())
    resumed = start_run(Location.of(tmp_path / "run"), configure(one), resume=True)
    with pytest.raises(UserError, match=r"step-00009999 is not a checkpoint of this experiment"):
        train(resumed, configure(one), blocks, resume=True)
    assert read_record(run.location).state == "failed"


def test_a_spike_of_the_loss_is_noted_with_its_step(blocks: Path, tmp_path: Path) -> None:
    config = configure({"training.lr": 1e-9, "training.log_interval": 2, "training.num_epochs": 4})
    run = start_run(Location.of(tmp_path), config)
    job = Job(config=to_yaml(config), run=str(run.location), blocks=str(blocks), workers=1, resume=False, init="")
    with run.recording(), Journal(run, config, io.StringIO()) as journal:
        trainer, recovery = make_trainer(job, config, Workers(device=CPU))
        journal.begin(trainer, recovery)
        learn, at = trainer.learner.learn, 14

        def learn_badly(batches: list[Batch], **options: Any) -> torch.Tensor:
            values = learn(batches, **options)
            values[0] *= 50 if trainer.step == at else 1
            return values

        trainer.learner.learn = learn_badly  # type: ignore[method-assign]
        trainer.run(journal.hooks)
    spikes = [note for note in read_record(run.location).notes if "loss spike" in note]
    assert len(spikes) == 1
    assert f"at step {at + 1}, " in spikes[0]


def test_the_log_is_what_the_terminal_showed_over_all_attempts_with_the_time(blocks: Path, tmp_path: Path) -> None:
    began = datetime.now(UTC) - timedelta(seconds=1)
    shown = ""
    for epochs in (1, 2):
        config = configure({"training.num_epochs": epochs})
        run = start_run(Location.of(tmp_path), config, resume=epochs > 1)
        shown += train(run, config, blocks, resume=epochs > 1)
    times, texts = read_log(run.location)
    assert texts == shown.splitlines()
    assert sum("resumed from" in text for text in texts) == 1
    all_times = [began, *times, datetime.now(UTC)]
    assert all_times == sorted(all_times)


def test_the_log_of_a_run_in_an_object_store_goes_on_at_a_resume(
    endpoint: str, blocks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_s3(monkeypatch, endpoint)
    shown = ""
    for epochs in (1, 2):
        config = configure({"training.num_epochs": epochs})
        run = start_run(Location.of("s3://games/runs"), config, resume=epochs > 1)
        shown += train(run, config, blocks, resume=epochs > 1)
    assert read_log(run.location)[1] == shown.splitlines()


def test_a_log_that_cannot_be_written_is_noted_once_and_ends_no_run(
    blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure()
    run = start_run(Location.of(tmp_path), config)

    class FullDisk:
        def write_line(self, line: str) -> None:
            raise StorageError("no space left")

        def close(self) -> None:
            raise StorageError("no space left")

    monkeypatch.setattr("worldmodel.run.log_file.open_appender", lambda location: FullDisk())
    train(run, config, blocks)
    record = read_record(run.location)
    assert record.step == record.total_steps
    assert [note for note in record.notes if LOG in note] == [f"lines of {LOG} wait for room: no space left"]


def test_wandb_gets_a_trials_axes_as_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, Any]] = []

    def make_tracker(
        location: Location, tracking: object, config: dict[str, Any], note: object, wandb_id: str
    ) -> Tracker:
        shown.append(config)
        return Tracker(location, TrackingConfig(wandb="disabled"), config, print, wandb_id)

    monkeypatch.setattr(journal_module, "Tracker", make_tracker)
    config = configure({})
    for axes in ({}, {"training.lr": 0.5}):
        run = start_run(Location.of(tmp_path), replace(config, name=f"a{len(axes)}"), axes=axes)
        Journal(run, config, io.StringIO())
    assert "axes" not in shown[0]
    assert shown[1]["axes"] == {"training.lr": 0.5}
    assert shown[1]["training"] == shown[0]["training"]
