"""What nests without end rejects its file; the games beside it are encoded."""

from __future__ import annotations

import struct
import tarfile
from pathlib import Path

import pytest

from tests.games_on_disk import as_file, encode_here, name_of, toy_columns, write_folder
from worldmodel.games.tar import pack_games

CONTENT = as_file(toy_columns(1, 30))


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_chained_long_names_reject_their_shard(tmp_path: Path, kind: bytes) -> None:
    write_folder(tmp_path / "data", {name_of(CONTENT): CONTENT})
    pack_games(str(tmp_path / "data"), str(tmp_path / "shards"))
    head = tarfile.TarInfo("name")
    head.type, head.size = kind, 12
    link = head.tobuf(tarfile.GNU_FORMAT) + b"12 path=abcd".ljust(tarfile.BLOCKSIZE, b"\0")
    (tmp_path / "shards/shard-000001.tar").write_bytes(link * 2000 + bytes(tarfile.RECORDSIZE))
    summary = encode_here(tmp_path / "shards", tmp_path / "blocks", max_rejected=0.9)
    assert len(summary.index.games) == 1
    assert [(r.file, "recursion" in r.reason) for r in summary.rejected] == [("shard-000001.tar", True)]


def test_a_deep_header_of_frame_ids_rejects_its_game(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", {"bad": CONTENT, "good": as_file(toy_columns(2, 30))})
    header = b"-" * 4000 + b"1\n"
    (tmp_path / "data/frame_ids").mkdir()
    (tmp_path / "data/frame_ids/bad.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    summary = encode_here(tmp_path / "data", tmp_path / "blocks", max_rejected=0.9)
    assert [game.md5 for game in summary.index.games] == ["good"]
    assert [r.file for r in summary.rejected] == ["games/bad"]
    assert summary.rejected[0].reason.startswith("its frame ids cannot be read")
