"""Rows in W&B's offline file are counted, so that a full disk loses none without a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.run.test_tracking import ROWS, track
from worldmodel.run import wandb_sink
from worldmodel.run.wandb_file import BLOCK_BYTES, count_rows
from worldmodel.storage import Location


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")


def test_all_rows_are_counted_and_those_of_a_torn_file_as_far_as_they_go(tmp_path: Path) -> None:
    track(Location.of(tmp_path), [], ROWS * 400)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    content = file.read_bytes()
    assert len(content) > 2 * BLOCK_BYTES
    assert count_rows(file) == 400 * len(ROWS)
    counts = []
    for size in (7, 3000, BLOCK_BYTES - 3, BLOCK_BYTES + 3, 2 * BLOCK_BYTES, len(content) - 1):
        file.write_bytes(content[:size])
        counts.append(count_rows(file))
    assert counts[0] == 0 and counts == sorted(counts) and counts[1] < counts[2] < counts[4]
    file.write_bytes(
        content[:BLOCK_BYTES] + bytes(BLOCK_BYTES) + content[2 * BLOCK_BYTES :]
    )  # a hole, as on a full disk
    assert 0 < count_rows(file) < 400 * len(ROWS)


def test_rows_that_are_missing_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_sink, "count_rows", lambda path: 2)
    notes: list[str] = []
    track(Location.of(tmp_path), notes)
    assert f"holds 2 of {len(ROWS)} rows: its disk is full, or was" in notes[-1]


def test_without_room_wandb_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_sink, "LEAST_ROOM", 1 << 60)
    notes: list[str] = []
    track(Location.of(tmp_path), notes)
    assert len(notes) == 1 and "KiB free, W&B needs" in notes[0]
    assert not (tmp_path / "wandb").exists()
