"""Which checkpoints a training under way saves and points at, and what a failure to save one costs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.run.test_journal import train
from tests.training.tiny_runs import configure, write_blocks
from worldmodel.object_store import StorageError
from worldmodel.run import journal as journal_module
from worldmodel.run.record import State
from worldmodel.run.run_folder import read_record, start_run
from worldmodel.storage import Location
from worldmodel.training.checkpoint import Checkpoint
from worldmodel.training.checkpoint_list import list_checkpoints, read_best


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blocks(tmp_path_factory.mktemp("games"))


def test_a_copy_without_the_best_checkpoint_goes_on_from_its_newest(blocks: Path, tmp_path: Path) -> None:
    worst = {"training.best_metric": "val_loss/total", "training.best_mode": "max"}  # so the first epoch's is "best"
    config = configure(worst)
    run = start_run(Location.of(tmp_path), config)
    train(run, config, blocks)
    best = read_best(run.location)
    assert best is not None and best.step < run.record.step
    (run.location / best.path).delete()
    (run.location / "checkpoints/best.json").delete()
    longer = configure(worst, **{"training.num_epochs": 3})
    train(start_run(Location.of(tmp_path), longer, resume=True), longer, blocks, resume=True)
    record = read_record(run.location)
    assert (record.state, record.epoch) == (State.FINISHED, 3)
    assert any(note.startswith(f"the best checkpoint, of step {best.step}, is none here: ") for note in record.notes)


def test_a_stop_saves_no_step_again(blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, save, saved = configure(), journal_module.save_checkpoint, list[int]()

    def listen(location: Location, checkpoint: Checkpoint) -> Location:
        saved.append(checkpoint.state.step)
        return save(location, checkpoint)

    monkeypatch.setattr(journal_module, "save_checkpoint", listen)
    run = start_run(Location.of(tmp_path), config)
    monkeypatch.setattr(run, "should_stop", lambda: "enough" if run.record.epoch else None)  # right after the epoch's
    train(run, config, blocks)
    resumed = start_run(Location.of(tmp_path), config, resume=True)
    monkeypatch.setattr(resumed, "should_stop", lambda: "enough")  # before its first step
    train(resumed, config, blocks, resume=True)
    assert saved == [run.record.step]
    [only] = list_checkpoints(run.location)
    assert read_record(run.location).checkpoint == f"checkpoints/{only.name}"


def test_a_stop_saves_a_step_whose_checkpoint_by_time_failed(
    blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure({"training.checkpoint_minutes": 1e-6})
    run, save = start_run(Location.of(tmp_path), config), journal_module.save_checkpoint

    def refuse_by_time(location: Location, checkpoint: Checkpoint) -> Location:
        if checkpoint.state.tags == (journal_module.BY_TIME,):
            raise StorageError("no space left")
        return save(location, checkpoint)

    monkeypatch.setattr(journal_module, "save_checkpoint", refuse_by_time)
    monkeypatch.setattr(run, "should_stop", lambda: "enough" if run.record.step == 2 else None)
    train(run, config, blocks)
    assert read_record(run.location).checkpoint == "checkpoints/step-00000002"


@pytest.mark.parametrize("is_epoch", [False, True])
def test_a_checkpoint_by_time_may_fail_and_one_of_an_epoch_ends_the_run(
    blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_epoch: bool
) -> None:
    config = configure({"training.checkpoint_minutes": 1e-6})
    run, save = start_run(Location.of(tmp_path), config), journal_module.save_checkpoint

    def refuse(location: Location, checkpoint: Checkpoint) -> Location:
        if checkpoint.state.step in (2, 3) or (is_epoch and "epoch" in checkpoint.state.tags):
            raise StorageError("no space left")
        return save(location, checkpoint)

    monkeypatch.setattr(journal_module, "save_checkpoint", refuse)
    if is_epoch:
        with pytest.raises(StorageError, match="no space left"):
            train(run, config, blocks)
    else:
        shown = train(run, config, blocks)
        assert shown.count("warning: no checkpoint at step") == 2
        assert "no checkpoint at step 3, the newest is checkpoints/step-00000001: no space left" in shown
    record = read_record(run.location)
    assert record.state == ("failed" if is_epoch else "finished")
    notes = [note for note in record.notes if "could be saved" in note]
    assert notes == ["not every checkpoint could be saved, first at step 2: no space left"]
