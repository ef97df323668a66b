"""Data are what is named, whatever they are called and wherever they lie."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.s3_server import serve_s3, use_s3
from tests.training.tiny_runs import configure, open_data, write_blocks
from worldmodel.errors import UserError
from worldmodel.storage import Location
from worldmodel.training.data import open_dataset, prepare_blocks, require_source


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blocks(tmp_path_factory.mktemp("games"))


def test_blocks_are_taken_as_they_are(blocks: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(blocks.parent)
    told: list[str] = []
    assert prepare_blocks("blocks", str(tmp_path), told.append) == str(blocks)
    assert told == []
    assert list(tmp_path.iterdir()) == []


def test_no_data_is_said_so() -> None:
    with pytest.raises(UserError, match="--data"):
        require_source(configure())


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({"training.seed": 3, "encoding.lookahead": 1}, True),
        ({"data.max_games": 6}, False),
        ({"training.train_split": 0.5}, False),
        ({"data.split": "first", "training.train_split": 0.5}, False),
    ],
)
def test_the_fingerprint_names_games_and_split(blocks: Path, changes: dict[str, Any], is_same: bool) -> None:
    assert (open_data(configure(changes), blocks).fingerprint == open_data(configure(), blocks).fingerprint) == is_same


def test_remote_blocks_are_cached_once_and_a_torn_copy_is_fetched_anew(
    blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_s3() as url:
        use_s3(monkeypatch, url)
        monkeypatch.setenv("WORLDMODEL_CACHE", str(tmp_path))
        for file in blocks.iterdir():
            (Location.of("s3://games/blocks") / file.name).upload(file)
        config = configure({"data.max_games": 3})
        first = open_dataset("s3://games/blocks", config)
        used = {game.block for game in (*first.split.train, *first.split.validation)}
        cached = {path.name: path.stat().st_mtime_ns for path in first.folder.glob("*.arrow")}
        assert set(cached) == used
        assert all((first.folder / name).read_bytes() == (blocks / name).read_bytes() for name in used)
        torn = first.folder / min(used)
        torn.write_bytes(torn.read_bytes()[:50])
        again = open_dataset("s3://games/blocks", config)
        assert torn.read_bytes() == (blocks / torn.name).read_bytes()
        kept = {path.name: path.stat().st_mtime_ns for path in again.folder.glob("*.arrow") if path != torn}
        assert kept == {name: time for name, time in cached.items() if name != torn.name}
        assert first.fingerprint == open_data(config, blocks).fingerprint


def test_workers_of_one_machine_fill_its_cache_together(
    blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_s3() as url:
        use_s3(monkeypatch, url)
        monkeypatch.setenv("WORLDMODEL_CACHE", str(tmp_path))
        for file in blocks.iterdir():
            (Location.of("s3://games/blocks") / file.name).upload(file)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: open_dataset("s3://games/blocks", configure()), range(4)))
        assert len({dataset.folder for dataset in found}) == 1
        for path in found[0].folder.glob("*.arrow"):
            assert path.read_bytes() == (blocks / path.name).read_bytes()
        assert list(found[0].folder.glob(".*.part")) == []
