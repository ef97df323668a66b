"""A run whose folder cannot be written when it ends is told all the same, by who looks next from its machine."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from worldmodel.object_store import StorageError
from worldmodel.run.certificate import certify
from worldmodel.run.last_words import find_words
from worldmodel.run.record import RunRecord, State
from worldmodel.run.run import RECORD, Run
from worldmodel.run.run_folder import read_written
from worldmodel.storage import Location


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run in a folder of its own, with temporary files in another one."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    return Run(Location.of(tmp_path / "run"), RunRecord(name="run", command="train", commit=None))


def end_without_room(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the run fail, and then its record."""

    def refuse(location: Location, text: str) -> None:
        raise StorageError(f"cannot write {location}: no space left on device")

    with pytest.raises(RuntimeError, match="made by a test") as caught, run.recording():
        run.note_step(3)
        write = Location.write_text
        place = run.location / RECORD
        monkeypatch.setattr(
            Location, "write_text", lambda at, text: refuse(at, text) if at == place else write(at, text)
        )
        raise RuntimeError("made by a test")
    monkeypatch.setattr(Location, "write_text", write)
    assert "it is kept in" in caught.value.__notes__[0]


def test_the_cause_that_could_not_be_stored_is_stored_by_who_looks_next(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_without_room(run, monkeypatch)
    assert read_written(run.location).state in (State.CREATED, State.RUNNING)
    found = certify(run.location)
    assert (found.state, found.reason, found.step) == (State.FAILED, "RuntimeError: made by a test", 3)
    assert "made by a test" in found.traceback
    assert read_written(run.location).reason == found.reason
    assert find_words(run.location, read_written(run.location)) is None  # told once


def test_words_of_an_earlier_attempt_are_not_those_of_the_next(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    end_without_room(run, monkeypatch)
    later = read_written(run.location).model_copy(update={"pid": 1})
    assert find_words(run.location, later) is None


def test_words_count_whatever_the_clock_was_set_to(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    end_without_room(run, monkeypatch)
    written = read_written(run.location)
    later = written.model_copy(update={"heartbeat": written.heartbeat + timedelta(days=1)})
    assert find_words(run.location, later) is not None
