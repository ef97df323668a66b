"""Names that come with the data lead nowhere but into their own folder."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.games_on_disk import as_file, encode_here, name_of, toy_columns, write_folder
from worldmodel.blocks.index import read_index
from worldmodel.errors import UserError
from worldmodel.games.download import fetch_games
from worldmodel.games.manifest import MANIFEST, read_manifest
from worldmodel.games.shard import iterate_shard
from worldmodel.games.source import list_source, read_games
from worldmodel.games.tar import pack_games
from worldmodel.games.upload import upload_games
from worldmodel.storage import Location, is_plain_name

CONTENT = as_file(toy_columns(1, 30))
OUTWARD = [
    "../secret", "..", ".", "/etc/passwd", "a/../../secret", "..\\secret", "C:\\secret", "\\\\host\\share", "a\0b",
    ".hidden", ".{x}", "", "games/../../secret",
]  # fmt: skip


@pytest.mark.parametrize("name", OUTWARD)
def test_a_game_that_meta_json_names_elsewhere_is_not_read(tmp_path: Path, name: str) -> None:
    good = write_folder(tmp_path / "data", {name_of(CONTENT): CONTENT})
    (tmp_path / "secret").write_bytes(CONTENT)
    (tmp_path / "data" / "secret").write_bytes(CONTENT)
    entries = [{"slp_md5": good[0]}, {"slp_md5": name}]
    (tmp_path / "data" / "meta.json").write_text(json.dumps(entries))
    listing = list_source(str(tmp_path / "data"))
    assert [unit.name for unit in listing.units] == good
    assert next(r.reason for r in listing.rejected).startswith(("its slp_md5 is not", "its entry in meta.json has no"))


def _link(kind: bytes, to: str) -> Callable[[tarfile.TarInfo], None]:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname, info.size = kind, to, 0

    return change


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *[(f"{name}.game", id) for name in OUTWARD if "\0" not in name],
        ("a.game", _link(tarfile.SYMTYPE, "/etc/passwd")),
        ("a.game", _link(tarfile.LNKTYPE, "../../etc/passwd")),
        ("a.game", _link(tarfile.CHRTYPE, "")),
        ("a.game", _link(tarfile.FIFOTYPE, "")),
    ],
)
def test_a_tar_member_that_points_elsewhere_is_a_reason_and_nothing_is_written(
    tmp_path: Path, name: str, change: Callable[[tarfile.TarInfo], None]
) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for member, alter in ((name, change), (f"{name_of(CONTENT)}.game", id)):
            info = tarfile.TarInfo(member)
            info.size = len(CONTENT)
            alter(info)
            archive.addfile(info, io.BytesIO(CONTENT) if info.isfile() else None)
    found = list(iterate_shard(Location.of(folder / "a.tar")))
    assert [m.name for m in found if not m.reason] == [name_of(CONTENT)]
    assert any(m.reason for m in found)
    assert [path.name for path in tmp_path.rglob("*")] == ["inside", "a.tar"]


def test_a_tar_name_with_a_nul_is_not_a_plain_one(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a.game")
        info.pax_headers = {"path": "a\0/../b.game"}
        info.size = len(CONTENT)
        archive.addfile(info, io.BytesIO(CONTENT))
    assert all(m.reason or "\0" not in m.name for m in iterate_shard(Location.of(tmp_path / "a.tar")))


def test_an_entry_of_a_shard_that_is_a_book_is_not_parsed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, data in (("a.game", CONTENT), ("a.json", b"[" + b"1," * (1 << 20) + b"1]")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    (found,) = iterate_shard(Location.of(tmp_path / "a.tar"))
    assert "an entry has at most" in found.reason


@pytest.mark.parametrize("name", [name for name in OUTWARD if name])
def test_blocks_that_an_index_names_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path / "games", {name_of(CONTENT): CONTENT})
    encode_here(tmp_path / "games", tmp_path / "blocks")
    found = json.loads((tmp_path / "blocks" / "index.json").read_text())
    found["blocks"][0]["name"] = name
    (tmp_path / "blocks" / "index.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match=r"index.json is damaged .* is not a plain file name"):
        read_index(Location.of(tmp_path / "blocks"))


@pytest.mark.parametrize("name", [name for name in OUTWARD if name])
def test_an_upload_whose_manifest_names_objects_elsewhere_is_not_fetched(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"mine")
    stored = {"name": name, "size": 4, "sha256": "0" * 64, "tag": ""}
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / MANIFEST).write_text(json.dumps({"version": 1, "objects": [stored], "rejected": []}))
    with pytest.raises(UserError, match="is damaged"):
        read_manifest(Location.of(tmp_path / "up"))
    with pytest.raises(UserError, match="is damaged"):
        fetch_games(Location.of(tmp_path / "up"), tmp_path / "down")
    assert (tmp_path / "secret").read_bytes() == b"mine"


def test_a_link_in_a_folder_of_games_gives_no_more_than_a_reason(tmp_path: Path) -> None:
    """People link games into folders of their own, so links are followed; what is no game is not shown."""
    (tmp_path / "secret").write_text("password = hunter2")
    write_folder(tmp_path / "data", {"a": b"x"})
    (tmp_path / "data/games/a").unlink()
    (tmp_path / "data/games/a").symlink_to(tmp_path / "secret")
    (reading,) = read_games(list_source(str(tmp_path / "data")).units)
    assert reading.game is None and "hunter2" not in reading.reason


def _link_out(folder: Path, name: str, to: Path) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(to)


@pytest.mark.parametrize("place", ["games", "frame_ids"])
def test_a_linked_private_file_is_neither_packed_nor_sent(tmp_path: Path, place: str) -> None:
    (tmp_path / "secret").write_text("password = hunter2")
    bad, _ = write_folder(tmp_path / "data", {"a": CONTENT, name_of(CONTENT): CONTENT})
    _link_out(tmp_path / "data", f"games/{bad}" if place == "games" else f"frame_ids/{bad}.npy", tmp_path / "secret")
    packed = pack_games(str(tmp_path / "data"), str(tmp_path / "packed"))
    sent = upload_games(str(tmp_path / "data"), str(tmp_path / "sent"))
    assert (packed.games, sent.games) == (1, 1)
    rejected = [*json.loads((tmp_path / "packed/rejected.json").read_text()), *sent.rejected]
    assert [r["file"] for r in rejected] == [f"games/{bad}"] * 2
    assert all(f"it leads to {tmp_path / 'secret'}, outside its folder" in r["reason"] for r in rejected)
    for shard in (*tmp_path.glob("packed/*"), *tmp_path.glob("sent/*")):
        assert b"hunter2" not in shard.read_bytes()


def test_a_linked_game_is_packed(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", {"a": CONTENT})
    (tmp_path / "game").write_bytes(CONTENT)
    _link_out(tmp_path / "data", "games/a", tmp_path / "game")
    assert pack_games(str(tmp_path / "data"), str(tmp_path / "packed")).games == 1


def test_a_shard_that_is_a_link_out_of_its_folder_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "secret.tar").write_text("password = hunter2")
    (tmp_path / "data").mkdir()
    _link_out(tmp_path / "data", "a.tar", tmp_path / "secret.tar")
    with pytest.raises(UserError, match=r"a.tar leads to .*secret.tar, outside .*: copy the file there"):
        upload_games(str(tmp_path / "data"), str(tmp_path / "sent"))
    assert not (tmp_path / "sent").exists()
    assert upload_games(str(tmp_path / "data/a.tar"), str(tmp_path / "sent")).objects == 1, "who names it means it"


@given(name=st.text(max_size=20))
def test_a_plain_name_stays_in_its_folder(name: str) -> None:
    if is_plain_name(name):
        place = Path("/folder") / name
        assert place.parent == Path("/folder") and place.name == name
        assert not any(mark in name for mark in "/\\\0")
