"""Data are what is named, whatever they are called and wherever they lie."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.games_on_disk import encode_here, write_games
from tests.s3_server import serve_s3, use_s3
from tests.training.tiny_runs import CPU, configure, open_data, write_blocks
from worldmodel.errors import UserError
from worldmodel.games.output import writing_alone
from worldmodel.storage import Location
from worldmodel.training.data import open_dataset, prepare_blocks, require_source
from worldmodel.training.feed import Worker, open_store


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blocks(tmp_path_factory.mktemp("games"))


def test_blocks_are_taken_as_they_are(blocks: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(blocks.parent)
    told: list[str] = []
    assert prepare_blocks("blocks", str(tmp_path), told.append) == str(blocks)
    assert told == []
    assert list(tmp_path.iterdir()) == []


def test_games_that_another_training_encodes_are_waited_for(tmp_path: Path) -> None:
    write_games(tmp_path / "games", range(2))
    name = hashlib.sha256(str(tmp_path / "games").encode()).hexdigest()[:12]
    encode_here(tmp_path / "games", out := tmp_path / "runs" / "blocks" / name)
    told, found = list[str](), list[str]()

    def prepare() -> None:
        found.append(prepare_blocks(str(tmp_path / "games"), str(tmp_path / "runs"), told.append))

    thread = threading.Thread(target=prepare)
    with writing_alone(Location.of(out)):
        thread.start()
        while not told:
            assert thread.is_alive()
        assert not found
    thread.join(30)
    assert found == [str(out)]
    told = [text for text in told if not text.endswith(" ...")]
    assert "waiting until it has ended" in told[0] and "(0 encoded now, 0 rejected)" in told[1]


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


def test_remote_blocks_are_looked_up_and_not_fetched_before_frames_are_opened(
    blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_s3() as url:
        use_s3(monkeypatch, url)
        monkeypatch.setenv("WORLDMODEL_CACHE", str(tmp_path))
        for file in blocks.iterdir():
            (Location.of("s3://games/blocks") / file.name).upload(file)
        config = configure({"data.max_games": 3})
        dataset = open_dataset("s3://games/blocks", config)
        assert not list(tmp_path.rglob("*.arrow"))
        store = open_store(dataset, dataset.split.train, config, Worker(device=CPU))
        assert store.is_resident
        used = {game.block for game in dataset.split.train}
        assert {path.name for path in tmp_path.rglob("*.arrow")} == used
        assert dataset.fingerprint == open_data(config, blocks).fingerprint


@pytest.mark.parametrize("is_remote", [False, True])
def test_a_block_cut_short_is_refused_when_the_data_are_opened(
    blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_remote: bool
) -> None:
    for file in blocks.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    name = next(tmp_path.glob("*.arrow")).name
    (tmp_path / name).write_bytes((blocks / name).read_bytes()[:-20])
    if not is_remote:
        with pytest.raises(UserError, match=f"{name} is damaged"):
            open_data(configure(), tmp_path)
        return
    with serve_s3() as url:
        use_s3(monkeypatch, url)
        monkeypatch.setenv("WORLDMODEL_CACHE", str(tmp_path / "cache"))
        for file in tmp_path.glob("*.*"):
            (Location.of("s3://games/blocks") / file.name).upload(file)
        with pytest.raises(UserError, match=f"{name} is damaged"):
            open_dataset("s3://games/blocks", configure())
