"""Uploaded games brought back: the same bytes, verified, and nothing else in the folder is touched."""

from __future__ import annotations

import json
import os
import re
import resource
from pathlib import Path

import pytest

from tests.games_on_disk import encode_here, write_games
from worldmodel.cli.main import main
from worldmodel.games import download
from worldmodel.games.source import UNFINISHED, list_source
from worldmodel.games.upload import UploadOptions, upload_games
from worldmodel.storage import Location


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A folder that an upload filled with several shards."""
    write_games(tmp_path / "games", range(5))
    upload_games(str(tmp_path / "games"), str(tmp_path / "stored"), UploadOptions(shard_mb=0.05))
    return tmp_path / "stored"


def read_shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".tar"}


def test_fetched_games_are_those_of_the_upload(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", str(stored), str(tmp_path / "here"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["verified"] and shown["fetched_bytes"] == sum(map(len, read_shards(stored).values()))
    assert read_shards(tmp_path / "here") == read_shards(stored)
    fetched = encode_here(tmp_path / "here", tmp_path / "fetched").index
    assert fetched.fingerprint == encode_here(tmp_path / "games", tmp_path / "loose").index.fingerprint


def test_an_upload_in_the_current_folder_is_found_by_its_name(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fetch", stored.name, "here"]) == 0
    assert read_shards(tmp_path / "here") == read_shards(stored)


def test_a_second_fetch_brings_what_is_missing_or_damaged_here(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["fetch", str(stored), str(tmp_path / "here"), "--json"]
    assert main(asked) == 0
    first, second, *_ = sorted((tmp_path / "here").glob("*.tar"))
    first.write_bytes(bytes(first.stat().st_size))
    second.unlink()
    capsys.readouterr()
    assert main(asked) == 0
    assert json.loads(capsys.readouterr().out)["fetched"] == 2
    assert read_shards(tmp_path / "here") == read_shards(stored)


def test_a_fetch_that_broke_off_goes_on_with_the_next_byte_and_is_not_read_meanwhile(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here, name = tmp_path / "here", sorted(read_shards(stored))[-1]
    source = Location.of(stored / name)
    partial = source._name_partial(here / name)
    begun = source.read_bytes()[:1000]

    def break_off(*_: object) -> None:
        partial.write_bytes(begun)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("worldmodel.games.download._fetch", break_off)
        assert main(["fetch", str(stored), str(here)]) == 130
    assert main(["encode", str(here), str(tmp_path / "blocks")]) == 2
    assert "is not whole" in capsys.readouterr().err
    sought: list[int] = []
    opened = Location.open_input

    class Watched:
        def __init__(self, location: Location) -> None:
            self._stream = opened(location)

        def __getattr__(self, part: str) -> object:
            return getattr(self._stream, part)

        def __enter__(self) -> Watched:
            return self

        def __exit__(self, *_: object) -> None:
            self._stream.close()

        def seek(self, place: int) -> None:
            sought.append(place)
            self._stream.seek(place)

    monkeypatch.setattr(Location, "open_input", lambda place: Watched(place) if place == source else opened(place))
    assert main(["fetch", str(stored), str(here)]) == 0
    assert sought == [1000]
    assert read_shards(here) == read_shards(stored) and not (here / UNFINISHED).exists()


def test_a_full_disk_is_named_as_such_and_at_once(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worldmodel.games.download.time.sleep", lambda _: pytest.fail("the disk was asked again"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        assert main(["fetch", str(stored), str(tmp_path / "here")]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert re.search(f"cannot write {tmp_path}/here/.*: File too large; choose a folder", capsys.readouterr().err)


def test_two_fetches_into_one_folder_at_once_do_not_mix(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_games(tmp_path / "more", range(5, 7))
    upload_games(str(tmp_path / "more"), str(tmp_path / "other"))
    fetch, statuses = download._fetch, list[int]()

    def fetch_while_another_begins(*arguments: object) -> None:
        if not statuses:
            statuses.append(0)
            statuses[0] = main(["fetch", str(tmp_path / "other"), str(tmp_path / "here")])
        fetch(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("worldmodel.games.download.THREADS", 1)
    monkeypatch.setattr("worldmodel.games.download._fetch", fetch_while_another_begins)
    assert main(["fetch", str(stored), str(tmp_path / "here")]) == 0
    assert statuses == [2] and f"is being written by process {os.getpid()} on " in capsys.readouterr().err
    assert read_shards(tmp_path / "here") == read_shards(stored)


def test_damage_in_the_store_is_named_with_both_sums_and_the_copy_is_not_taken_for_whole(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = sorted(read_shards(stored))[0]
    content = (stored / name).read_bytes()
    (stored / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert main(["fetch", str(stored), str(tmp_path / "here")]) == 2
    assert f"{stored / name} is damaged: sha256 is" in capsys.readouterr().err
    assert not (tmp_path / "here" / name).exists() and (tmp_path / "here" / UNFINISHED).exists()


def test_shards_that_the_upload_replaced_go_here_too(stored: Path, tmp_path: Path) -> None:
    assert main(["fetch", str(stored), str(tmp_path / "here")]) == 0
    game = sorted((tmp_path / "games/games").iterdir())[0]
    game.write_bytes(game.read_bytes() + b"\0")
    upload_games(str(tmp_path / "games"), str(stored), UploadOptions(shard_mb=0.05))
    assert main(["fetch", str(stored), str(tmp_path / "here")]) == 0
    assert read_shards(tmp_path / "here") == read_shards(stored)
    assert len(list_source(str(tmp_path / "here")).units) == len(read_shards(stored))


@pytest.mark.parametrize("there", ["mine.txt", "meta.json", "other.tar"])
def test_a_fetch_overwrites_nothing_else(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], there: str
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / there).write_text("mine")
    assert main(["fetch", str(stored), str(tmp_path / "here")]) == 2
    assert f"holds other things ({there})" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "here").iterdir()] == [there]


def test_an_upload_is_not_fetched_into_itself(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_shards(stored)
    assert main(["fetch", str(stored), str(stored)]) == 2
    assert "is the upload itself" in capsys.readouterr().err
    assert read_shards(stored) == before


def test_a_damaged_manifest_is_named(stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (stored / "upload.json").write_text('{"objects": 3}')
    assert main(["fetch", str(stored), str(tmp_path / "here")]) == 2
    assert f"{stored / 'upload.json'} is damaged" in capsys.readouterr().err
