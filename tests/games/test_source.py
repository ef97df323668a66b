"""What a source offers, and that nothing of it is lost without a word."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.games_on_disk import as_file, name_of, toy_columns, write_folder, write_games
from worldmodel.errors import UserError
from worldmodel.games import source as source_module
from worldmodel.games.source import list_source, read_games
from worldmodel.storage import StorageError

CONTENT = as_file(toy_columns(1, 30))
NAME = name_of(CONTENT)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path / "games", {NAME: CONTENT})
    return tmp_path / "games"


def add_entries(folder: Path, *entries: object) -> None:
    meta = folder / "meta.json"
    meta.write_text(json.dumps([*json.loads(meta.read_text()), *entries]))


@pytest.mark.parametrize(
    ("entry", "file", "reason"),
    [
        ({}, "meta.json entry 1", "has no slp_md5"),
        ({"slp_md5": 5}, "games/5", "has no slp_md5"),
        ("text", "meta.json entry 1", "has no slp_md5"),
        (None, "meta.json entry 1", "has no slp_md5"),
        ({"slp_md5": "a" * 32}, f"games/{'a' * 32}", "there is no such file"),
        ({"slp_md5": NAME}, f"games/{NAME}", "named twice"),
        ({"slp_md5": "../meta.json"}, "games/../meta.json", "not a plain file name"),
        ({"slp_md5": "..\\meta.json"}, "games/..\\meta.json", "not a plain file name"),
        ({"slp_md5": "/etc/passwd"}, "games//etc/passwd", "not a plain file name"),
        ({"slp_md5": ".."}, "games/..", "not a plain file name"),
        ({"slp_md5": "a\0b"}, "games/a\0b", "not a plain file name"),
        ({"slp_md5": "folder"}, "games/folder", "there is no such file"),
    ],
)
def test_an_entry_that_names_no_game_is_rejected_and_the_others_stay(
    folder: Path, entry: object, file: str, reason: str
) -> None:
    (folder / "games" / "folder").mkdir()
    add_entries(folder, entry)
    listing = list_source(str(folder))
    assert [unit.name for unit in listing.units] == [NAME]
    assert [(r.file, reason in r.reason) for r in listing.rejected] == [(file, True)]


def test_files_that_meta_json_does_not_name_are_left_out_by_name(folder: Path) -> None:
    (folder / "games" / "stranger").write_bytes(CONTENT)
    (folder / "games" / ".hidden").write_bytes(b"")
    assert [(f.file, f.reason) for f in list_source(str(folder)).filtered] == [
        ("games/stranger", "not named in meta.json")
    ]


def test_games_that_are_not_for_training_are_left_out_unless_asked_for(folder: Path) -> None:
    other = as_file(toy_columns(2, 30))
    (folder / "games" / name_of(other)).write_bytes(other)
    add_entries(folder, {"slp_md5": name_of(other), "is_training": False, "not_training_reason": "a bot"})
    (left_out,) = list_source(str(folder)).filtered
    assert left_out.reason == "not for training: a bot"
    assert len(list_source(str(folder), training_only=False).units) == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"a": 1}', "holds a dict, expected a list"),
        (b"[]", "names no games"),
    ],
)
def test_a_meta_json_that_is_no_list_of_games_is_a_users_error(folder: Path, content: bytes, reason: str) -> None:
    for path in (folder / "games").iterdir():
        path.unlink()
    (folder / "meta.json").write_bytes(content)
    with pytest.raises(UserError, match=reason):
        list_source(str(folder))


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: None, "does not exist: expected a parsed folder"),
        (lambda p: p.mkdir(), "is empty: expected a parsed folder"),
        (lambda p: touch(p / "games" / "x"), "has games/ but no meta.json"),
        (lambda p: touch(p / "a.slp"), "holds replays, which are no games yet: .*`worldmodel games parse .*place OUT`"),
        (lambda p: touch(p / "2023" / "A.SLP.GZ"), "holds replays, which are no games yet"),
        (lambda p: touch(p / "b.txt"), "tar shards, replays"),
        (lambda p: touch(p / "a.txt"), r"no games in .* \(it holds a.txt\)"),
        (lambda p: touch(p / "sub" / "meta.json"), r"no games in .* \(it holds sub\)"),
        (lambda p: (p / "a.tar").mkdir(parents=True), r"no games in .* \(it holds a.tar\)"),
        (touch, "is a file: expected a parsed folder"),
    ],
)
def test_a_place_without_games_is_one_clear_message(
    tmp_path: Path, make: Callable[[Path], object], reason: str
) -> None:
    make(tmp_path / "place")
    with pytest.raises(UserError, match=reason):
        list_source(str(tmp_path / "place"))


@pytest.mark.parametrize("name", ["a.pt", "a.tar", "s.pt"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "s.pt").mkdir()
    with pytest.raises(UserError, match=f"there is no file at .*{name}"):
        list_source(str(tmp_path / name))


def test_links_to_games_are_followed_and_dangling_ones_rejected(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(CONTENT)
    (folder / "games" / "b").symlink_to(tmp_path / "elsewhere")
    (folder / "games" / "c").symlink_to(tmp_path / "nowhere")
    add_entries(folder, {"slp_md5": "b"}, {"slp_md5": "c"})
    listing = list_source(str(folder))
    readings = list(read_games(listing.units))
    given = {reading.unit.name for reading in readings if reading.game}
    lost = {r.file for r in listing.rejected} | {r.file for r in readings if not r.game}
    assert (given, lost) == ({NAME, "b"}, {"games/c"})


def test_a_file_that_cannot_be_read_is_a_rejection(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    units = list_source(str(folder)).units
    for error in (PermissionError(13, "Permission denied"), StorageError("cannot read it: Forbidden")):

        def refuse(uri: str, error: Exception = error) -> bytes:
            raise error

        monkeypatch.setattr(source_module, "_read", refuse)
        (reading,) = read_games(units)
        assert reading.game is None
        assert reading.reason.startswith("cannot be read: ")


def test_a_file_that_vanished_after_listing_is_a_rejection(folder: Path) -> None:
    units = list_source(str(folder)).units
    (folder / "games" / NAME).unlink()
    (reading,) = read_games(units)
    assert "there is no file" in reading.reason


def test_a_file_of_a_huge_size_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "MAX_GAME_BYTES", 100)
    (reading,) = read_games(list_source(str(folder)).units)
    assert reading.reason == f"{len(CONTENT)} bytes: no game is that long"


def test_games_come_in_the_order_of_the_units_with_their_frame_ids(tmp_path: Path) -> None:
    names = write_games(tmp_path, range(25), frames=20)
    (tmp_path / "frame_ids").mkdir()
    np.save(tmp_path / "frame_ids" / f"{names[5]}.npy", np.r_[0:24, 23].astype(np.int32))
    readings = list(read_games(list_source(str(tmp_path)).units))
    assert [reading.game.md5 for reading in readings if reading.game] == names
    assert [reading.unit.order for reading in readings] == list(range(25))
    assert {r.unit.name for r in readings if r.game and r.game.repeats == "1 dropped"} == {names[5]}
