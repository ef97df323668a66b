"""Tar shards: the games that a folder holds, and a reason for whatever a damaged or foreign shard does not give."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.games_on_disk import as_file, encode_here, name_of, toy_columns, write_folder
from worldmodel.errors import UserError
from worldmodel.games import shard
from worldmodel.games.shard import Member, iterate_shard
from worldmodel.storage import Location


def members(path: Path) -> list[Member]:
    return list(iterate_shard(Location.of(path)))


def write_tar(path: Path, files: list[tuple[str, bytes]], change: Callable[[tarfile.TarInfo], None] = id) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            change(info)
            archive.addfile(info, io.BytesIO(content) if info.isfile() else None)
    return path


GAMES = [(name_of(content), content) for content in (as_file(toy_columns(seed, 30)) for seed in range(4))]
FILES = [part for md5, content in GAMES for part in ((f"{md5}.game", content), (f"{md5}.json", b'{"stage": 2}'))]


def test_a_shard_gives_its_games_in_order_with_their_entries(tmp_path: Path) -> None:
    found = members(write_tar(tmp_path / "a.tar", FILES))
    assert [(m.name, m.data, m.entry, m.reason) for m in found] == [(*game, {"stage": 2}, "") for game in GAMES]


@pytest.mark.parametrize("cut", [0.3, 0.5, 0.77])
def test_a_shard_that_is_cut_short_keeps_its_whole_games_and_says_so(tmp_path: Path, cut: float) -> None:
    path = write_tar(tmp_path / "a.tar", FILES)
    content = path.read_bytes()
    with tarfile.open(path) as archive:
        ends = [info.offset_data + info.size for info in archive.getmembers()[1::2]]
    path.write_bytes(content[: int(len(content) * cut)])
    *whole, last = members(path)
    assert [(m.name, m.data) for m in whole] == GAMES[: sum(end <= len(content) * cut for end in ends)]
    assert "cut short" in last.reason and last.name == ""


def test_a_shard_cut_between_two_games_is_found_by_its_missing_end_mark(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", FILES)
    with tarfile.open(path) as archive:
        third = archive.getmembers()[4].offset
    path.write_bytes(path.read_bytes()[:third])
    *whole, last = members(path)
    assert [m.name for m in whole] == [name for name, _ in GAMES[:2]]
    assert "cut short after 2 games: it has no end mark" in last.reason


def test_tars_that_were_joined_give_the_games_of_the_first_and_the_reason_why_no_more(tmp_path: Path) -> None:
    parts = [write_tar(tmp_path / f"{n}.tar", FILES[2 * n : 2 * n + 2]).read_bytes() for n in range(3)]
    (tmp_path / "joined.tar").write_bytes(b"".join(parts))
    game, last = members(tmp_path / "joined.tar")
    assert (game.name, last.name) == (GAMES[0][0], "")
    assert "after 1 games" in last.reason and "another tar that was joined to it" in last.reason


def test_a_damaged_header_within_a_shard_is_no_end_without_a_word(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", FILES)
    with tarfile.open(path) as archive:
        third = archive.getmembers()[4].offset
    content = path.read_bytes()
    path.write_bytes(content[:third] + b"?" + content[third + 1 :])
    *whole, last = members(path)
    assert [m.name for m in whole] == [name for name, _ in GAMES[:2]]
    assert f"after 2 games, at byte {third}, the shard goes on with what is no part of it" in last.reason


def test_a_parsed_folder_in_a_tar_gives_no_game_without_what_its_meta_json_says(tmp_path: Path) -> None:
    write_folder(tmp_path / "parsed", dict(GAMES))
    for name in ("meta.json", "games", "games/" + GAMES[0][0]):
        path = tmp_path / f"{name.partition('/')[0]}.tar"
        with tarfile.open(path, "w") as archive:
            archive.add(tmp_path / "parsed" / name, f"parsed/{name}")
            archive.add(tmp_path / "parsed", "parsed")
        (found,) = members(path)
        assert (found.name, found.data) == ("", b"")
        with pytest.raises(UserError, match=r"1 x a parsed folder in a tar; .*`worldmodel games pack`"):
            encode_here(path, tmp_path / "out")


def test_zeros_behind_a_shard_are_no_fault(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", FILES)
    path.write_bytes(path.read_bytes() + bytes(100_001))
    assert [(m.name, m.reason) for m in members(path)] == [(name, "") for name, _ in GAMES]


def test_an_encoding_warns_of_a_shard_that_is_cut_short(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", FILES)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    summary = encode_here(path, tmp_path / "out", max_rejected=0.9)
    assert summary.index.games and any("what follows is lost" in warning for warning in summary.warnings)
    again = encode_here(path, tmp_path / "out", max_rejected=0.9)
    assert again.encoded == 0
    assert again.rejected == summary.rejected != []


def with_hidden(files: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """As macOS's tar writes them: a file of its own before each one."""
    return [part for name, data in files for part in ((f"./._{name}", b"Mac OS X"), (f"./{name}", data))]


MORE = [*FILES, ("__MACOSX/._x.game", b"x"), (".DS_Store", b"x"), ("./.cache/x.game", b"x")]
ORDERS = {
    "hidden files between": with_hidden(MORE),
    "entries last": sorted(FILES, key=lambda file: file[0].endswith("json")),
    "entries first": sorted(FILES, key=lambda file: file[0].endswith("game")),
    "entries in another order": FILES[::2] + FILES[::-2],
}


@pytest.mark.parametrize("order", ORDERS)
def test_no_game_loses_its_entry(tmp_path: Path, order: str) -> None:
    found = members(write_tar(tmp_path / "a.tar", ORDERS[order]))
    assert sorted((m.name, m.data, m.reason) for m in found) == sorted((*game, "") for game in GAMES)
    assert all(m.entry == {"stage": 2} for m in found)


def test_a_member_that_comes_too_late_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard, "_HELD_BYTES", 1)
    found = members(write_tar(tmp_path / "a.tar", ORDERS["entries last"]))
    assert [m.name for m in found if "stands so far from the others" in m.reason] == [name for name, _ in GAMES]


def as_link(info: tarfile.TarInfo) -> None:
    info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", 0


@pytest.mark.parametrize(
    ("files", "change", "reason"),
    [
        ([("../../x.game", b"x")], id, "points out of the shard"),
        ([("/x.game", b"x")], id, "points out of the shard"),
        ([("a/x.game", b"x")], as_link, "is a link or a device"),
        ([("x.json", b"{}")], id, "holds no game file"),
        ([("x.game", b"x"), ("x.json", b"{")], id, ".json is damaged"),
        ([("x.game", b"x"), ("x.json", b"\xff")], id, ".json is damaged"),
        ([("x.game", b"x"), ("x.json", b"[" * 100_000)], id, ".json is damaged"),
        ([("x.game", b"x"), ("x.json", b"[1]")], id, ".json holds a list, expected an object"),
        ([("x.game", b"x"), ("x.data", b"x")], id, "two game files"),
    ],
)
def test_a_member_that_is_no_game_gives_a_reason_and_the_others_stay(
    tmp_path: Path, files: list, change: Callable, reason: str
) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in [*files, *FILES]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if (name, content) in files:
                change(info)
            archive.addfile(info, io.BytesIO(content) if info.isfile() else None)
    found = members(path)
    assert [m.reason for m in found if m.reason and reason in m.reason] != []
    assert [m.name for m in found if not m.reason] == [name for name, _ in GAMES]


def test_a_member_of_a_huge_size_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard, "MAX_GAME_BYTES", 1000)
    found = members(write_tar(tmp_path / "a.tar", [("big.game", bytes(5000)), ("x.game", b"small")]))
    assert [(m.name, m.data, "claims 5000 bytes" in m.reason) for m in found] == [
        ("big", b"", True),
        ("x", b"small", False),
    ]


def test_a_file_that_is_no_tar_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"nothing like a tar" * 100)
    assert [m.name for m in members(tmp_path / "a.tar")] == [""]
    (tmp_path / "a.tar").write_bytes(b"")
    assert [m.name for m in members(tmp_path / "a.tar")] == [""]
