"""Encoding: each game once, nothing lost without a word, and never a folder that looks whole but is not."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.games_on_disk import as_file, encode_here, name_of, toy_columns, write_folder, write_games
from worldmodel.blocks import task
from worldmodel.blocks.encode import EncodeOptions, encode
from worldmodel.blocks.index import INDEX, REJECTED, hash_file, partition_of, read_index
from worldmodel.errors import UserError
from worldmodel.games.tar import pack_games
from worldmodel.storage import Location


def snapshot(folder: Path) -> dict[str, tuple[int, str]]:
    """Name to modification time and content of every file."""
    return {
        path.name: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.iterdir()
        if path.suffix == ".arrow"
    }


def add_games(folder: Path, seeds: range) -> list[str]:
    files = [as_file(toy_columns(seed, 40 + seed)) for seed in seeds]
    entries = json.loads((folder / "meta.json").read_text())
    names = write_folder(folder, {name_of(content): content for content in files})
    (folder / "meta.json").write_text(json.dumps([*entries, *({"slp_md5": name} for name in names)]))
    return names


def spoil(folder: Path, name: str) -> None:
    (folder / "games" / name).write_bytes(b"spoilt")


def test_the_index_describes_its_games_and_blocks(tmp_path: Path) -> None:
    names = write_games(tmp_path / "games", range(9))
    encode_here(tmp_path / "games", tmp_path / "out")
    index = read_index(Location.of(tmp_path / "out"))
    assert [game.md5 for game in index.games] == names
    assert [game.frames for game in index.games] == [40 + seed for seed in range(9)]
    assert {block.name for block in index.blocks} == {path.name for path in (tmp_path / "out").glob("*.arrow")}
    blocks = {block.name: block for block in index.blocks}
    for block in index.blocks:
        content = (tmp_path / "out" / block.name).read_bytes()
        assert (block.bytes, block.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        inside = [game for game in index.games if game.block == block.name]
        assert (block.games, block.frames) == (len(inside), sum(game.frames for game in inside))
        assert sorted(game.row for game in inside)[0] == 0
    assert all(blocks[game.block].partition == partition_of(game.md5) for game in index.games)
    assert json.loads((tmp_path / "out" / REJECTED).read_text()) == []


def test_the_same_games_are_not_encoded_again(tmp_path: Path) -> None:
    write_games(tmp_path / "games", range(6))
    first = encode_here(tmp_path / "games", tmp_path / "out")
    before = snapshot(tmp_path / "out")
    second = encode_here(tmp_path / "games", tmp_path / "out")
    assert (first.encoded, second.encoded) == (6, 0)
    assert snapshot(tmp_path / "out") == before
    assert first.index == second.index


def test_added_games_leave_the_blocks_of_the_others_alone(tmp_path: Path) -> None:
    write_games(tmp_path / "games", range(6))
    encode_here(tmp_path / "games", tmp_path / "out")
    before = snapshot(tmp_path / "out")
    added = add_games(tmp_path / "games", range(6, 9))
    summary = encode_here(tmp_path / "games", tmp_path / "out")
    after = snapshot(tmp_path / "out")
    assert summary.encoded == 3
    assert {name: after[name] for name in before} == before
    assert [game.md5 for game in summary.index.games][-3:] == added
    fresh = encode_here(tmp_path / "games", tmp_path / "fresh")
    assert fresh.index.fingerprint == summary.index.fingerprint
    assert fresh.index.audit == summary.index.audit


def test_removed_and_changed_games_disappear_with_their_blocks(tmp_path: Path) -> None:
    names = write_games(tmp_path / "games", range(12))
    encode_here(tmp_path / "games", tmp_path / "out")
    meta = tmp_path / "games" / "meta.json"
    meta.write_text(json.dumps([entry for entry in json.loads(meta.read_text()) if entry["slp_md5"] != names[3]]))
    (tmp_path / "games" / "games" / names[5]).write_bytes(as_file(toy_columns(5, 99)))
    summary = encode_here(tmp_path / "games", tmp_path / "out")
    assert [game.md5 for game in summary.index.games] == [name for name in names if name != names[3]]
    assert {game.md5: game.frames for game in summary.index.games}[names[5]] == 99
    assert {path.name for path in (tmp_path / "out").glob("*.arrow")} == {b.name for b in summary.index.blocks}
    fresh = encode_here(tmp_path / "games", tmp_path / "fresh")
    assert fresh.index.fingerprint == summary.index.fingerprint
    assert fresh.index.audit["counts"] == summary.index.audit["counts"]


@pytest.mark.parametrize("is_packed", [False, True], ids=["loose", "shard"])
def test_a_block_that_is_gone_or_cut_short_is_encoded_again(tmp_path: Path, is_packed: bool) -> None:
    write_games(tmp_path / "games", range(8))
    source = tmp_path / "games"
    if is_packed:
        source = tmp_path / "shards"
        pack_games(str(tmp_path / "games"), str(source))
    first = encode_here(source, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.arrow")}
    gone, cut, *_ = sorted(before)
    (tmp_path / "out" / gone).unlink()
    (tmp_path / "out" / cut).write_bytes(before[cut][:1000])
    second = encode_here(source, tmp_path / "out")
    assert second.encoded >= 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.arrow")} == before
    assert first.index.games == second.index.games


def test_a_block_of_the_right_size_with_a_wrong_checksum_is_named_and_encoded_again(tmp_path: Path) -> None:
    write_games(tmp_path / "games", range(8))
    first = encode_here(tmp_path / "games", tmp_path / "out")
    block = first.index.blocks[0]
    content = (tmp_path / "out" / block.name).read_bytes()
    (tmp_path / "out" / block.name).write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    second = encode_here(tmp_path / "games", tmp_path / "out")
    assert second.encoded == block.games
    assert second.warnings[0].startswith(f"block {block.name} was damaged (its sha256 is not that of the index)")
    assert (tmp_path / "out" / block.name).read_bytes() == content


def test_frame_ids_that_appear_later_are_used(tmp_path: Path) -> None:
    names = write_games(tmp_path / "games", range(2))
    assert {g.repeats for g in encode_here(tmp_path / "games", tmp_path / "out").index.games} == {"unknown"}
    (tmp_path / "games" / "frame_ids").mkdir()
    np.save(tmp_path / "games" / "frame_ids" / f"{names[1]}.npy", np.r_[0:40, 39].astype(np.int32))
    games = {g.md5: g for g in encode_here(tmp_path / "games", tmp_path / "out").index.games}
    assert (games[names[1]].repeats, games[names[1]].frames) == ("1 dropped", 40)
    assert games[names[0]].repeats == "unknown"


def test_a_game_that_stood_in_two_shards_stays_when_one_of_them_goes(tmp_path: Path) -> None:
    write_games(tmp_path / "games", range(3))
    for name in ("a", "b"):
        pack_games(str(tmp_path / "games"), str(tmp_path / name))
        (tmp_path / "shards").mkdir(exist_ok=True)
        (tmp_path / name / "shard-000000.tar").rename(tmp_path / "shards" / f"{name}.tar")
    both = encode_here(tmp_path / "shards", tmp_path / "out", max_rejected=0.5)
    assert (len(both.index.games), len(both.rejected)) == (3, 3)
    (tmp_path / "shards" / "a.tar").unlink()
    one = encode_here(tmp_path / "shards", tmp_path / "out")
    assert ({game.shard for game in one.index.games}, one.index.fingerprint) == ({"b.tar"}, both.index.fingerprint)


def test_a_shard_is_read_again_when_more_of_it_is_wanted(tmp_path: Path) -> None:
    write_games(tmp_path / "games", range(3))
    meta = tmp_path / "games" / "meta.json"
    first, *others = json.loads(meta.read_text())
    meta.write_text(json.dumps([first | {"is_training": False}, *others]))
    pack_games(str(tmp_path / "games"), str(tmp_path / "shards"))
    assert len(encode_here(tmp_path / "shards", tmp_path / "out").index.games) == 2
    assert len(encode_here(tmp_path / "shards", tmp_path / "out", training_only=False).index.games) == 3


@pytest.mark.parametrize(("bad", "passes"), [(1, True), (2, False)])
def test_a_share_of_rejected_games_up_to_the_limit_passes(tmp_path: Path, bad: int, passes: bool) -> None:
    names = write_games(tmp_path / "games", range(10))
    for name in names[:bad]:
        spoil(tmp_path / "games", name)
    if passes:
        assert len(encode_here(tmp_path / "games", tmp_path / "out", max_rejected=0.1).index.games) == 9
    else:
        with pytest.raises(UserError, match=r"2 of 10 games rejected, more than 10% \(2 x neither zlib nor parquet"):
            encode_here(tmp_path / "games", tmp_path / "out", max_rejected=0.1)
        assert not (tmp_path / "out" / INDEX).exists()
    rejected = json.loads((tmp_path / "out" / REJECTED).read_text())
    assert {r["file"] for r in rejected} == {f"games/{name}" for name in names[:bad]}
    assert len(rejected) == bad and all(r["reason"].startswith("neither zlib nor parquet") for r in rejected)


def test_an_older_data_set_stays_valid_when_a_later_encoding_fails(tmp_path: Path) -> None:
    names = write_games(tmp_path / "games", range(4))
    encode_here(tmp_path / "games", tmp_path / "out")
    index, blocks = (tmp_path / "out" / INDEX).read_bytes(), snapshot(tmp_path / "out")
    add_games(tmp_path / "games", range(4, 6))
    for name in names[:3]:
        spoil(tmp_path / "games", name)
    with pytest.raises(UserError, match="3 of 6 games rejected"):
        encode_here(tmp_path / "games", tmp_path / "out")
    assert (tmp_path / "out" / INDEX).read_bytes() == index
    assert {name: snapshot(tmp_path / "out")[name] for name in blocks} == blocks


def test_encoding_nothing_is_a_users_error(tmp_path: Path) -> None:
    names = write_games(tmp_path / "games", range(2))
    entries = [{"slp_md5": name, "is_training": False} for name in names]
    (tmp_path / "games" / "meta.json").write_text(json.dumps(entries))
    with pytest.raises(UserError, match=r"no game could be encoded \(rejected: none; left out on purpose: 2"):
        encode_here(tmp_path / "games", tmp_path / "out", max_rejected=1.0)
    assert not (tmp_path / "out" / INDEX).exists()


def test_progress_counts_games_up_to_all(tmp_path: Path) -> None:
    write_games(tmp_path / "games", range(7))
    told: list[tuple[int, int]] = []
    options = EncodeOptions(cpus=0, games_per_task=2)
    encode(str(tmp_path / "games"), str(tmp_path / "out"), options, lambda _, done, total: told.append((done, total)))
    assert told[-1] == (7, 7) and [done for done, _ in told] == sorted(done for done, _ in told)


def test_pending_games_are_written_when_they_grow_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_games(tmp_path / "games", range(12))
    whole = encode_here(tmp_path / "games", tmp_path / "whole")
    monkeypatch.setattr(task, "PENDING_BYTES", 10_000)
    monkeypatch.setattr(task, "BLOCK_BYTES", 8_000)
    pack_games(str(tmp_path / "games"), str(tmp_path / "shards"))
    small = encode_here(tmp_path / "shards", tmp_path / "small")
    assert len(small.index.blocks) > len(whole.index.blocks)
    assert small.index.fingerprint == whole.index.fingerprint


def test_the_audit_tells_constant_columns_vocabulary_and_missing_fields(tmp_path: Path) -> None:
    files = []
    for seed in range(3):
        columns = toy_columns(seed, 50)
        columns["stage",][:] = 31
        for player in ("p0", "p1"):
            columns[player, "invulnerable"][:] = False
            columns[player, "shield_strength"][:] = 60
            columns[player, "l_cancel"][:] = 1
        if seed == 1:
            columns["p0", "action"][3:5] = 450
            columns["p1", "state_age"][:] = 0
        files.append(as_file(columns))
    write_folder(tmp_path / "games", {name_of(content): content for content in files})
    audit = encode_here(tmp_path / "games", tmp_path / "out").index.audit
    assert audit["games"] == 3
    assert audit["constant_fields"] == ["shield_strength", "invulnerable", "l_cancel"]
    assert audit["outside_vocabulary"] == {"action": {"frames": 2, "games": 1}}
    assert audit["missing_in_games"] == {"p1.state_age": 1}
    assert audit["stages"] == {"Battlefield": 3}
    assert audit["repeats"]["unknown"] == 3
    assert audit["ranges"]["shield_strength"] == [60.0, 60.0]


def test_an_encoding_task_needs_neither_torch_nor_ray(tmp_path: Path) -> None:
    write_games(tmp_path / "games", range(2))
    code = (
        "import sys\n"
        "from worldmodel.blocks.encode import EncodeOptions, encode\n"
        "encode(sys.argv[1], sys.argv[2], EncodeOptions(cpus=0))\n"
        "print([name for name in ('torch', 'ray') if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "games"), str(tmp_path / "out")]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


ENCODE = """
import sys
from worldmodel.blocks.encode import EncodeOptions, encode
encode(sys.argv[1], sys.argv[2], EncodeOptions(cpus=0, games_per_task=1))
"""


def test_an_encoding_that_is_killed_leaves_no_data_set_and_the_next_one_completes_it(tmp_path: Path) -> None:
    write_games(tmp_path / "games", range(40))
    command = [sys.executable, "-c", ENCODE, str(tmp_path / "games"), str(tmp_path / "out")]
    with subprocess.Popen(command, start_new_session=True) as process:
        while process.poll() is None and not any(tmp_path.glob("out/*.arrow")):
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert INDEX not in left and left
    with pytest.raises(UserError, match=r"holds no encoded games.*worldmodel encode GAMES"):
        read_index(Location.of(tmp_path / "out"))
    (tmp_path / "out" / f".{'0' * 20}.arrow.x1_y.tmp").write_bytes(b"half a block")
    summary = encode_here(tmp_path / "games", tmp_path / "out")
    assert len(summary.index.games) == 40
    blocks = {block.name for block in summary.index.blocks}
    assert {path.name for path in (tmp_path / "out").iterdir()} == blocks | {INDEX, REJECTED}
    assert all(hash_file(tmp_path / "out" / b.name) == b.sha256 for b in summary.index.blocks)


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    write_games(tmp_path / "games", range(2))
    (tmp_path / "out").mkdir()
    for name in ("notes.txt", "mine.arrow"):
        (tmp_path / "out" / name).write_text("keep")
    encode_here(tmp_path / "games", tmp_path / "out")
    assert {"notes.txt", "mine.arrow"} <= {path.name for path in (tmp_path / "out").iterdir()}
