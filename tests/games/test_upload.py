"""Games brought to a store: complete or said to be unfinished, sent once, and what is damaged or foreign is named."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest

from tests.cutting_proxy import cutting
from tests.games_on_disk import as_file, encode_here, name_of, toy_columns, write_folder, write_games
from tests.s3_server import SETTINGS, serve_s3, use_s3
from worldmodel import object_upload
from worldmodel.cli.main import main
from worldmodel.errors import UserError
from worldmodel.games.manifest import read_manifest
from worldmodel.games.source import UNFINISHED, list_source
from worldmodel.games.tar import pack_games
from worldmodel.games.upload import UploadOptions, UploadSummary, upload_games
from worldmodel.object_store import StorageError
from worldmodel.storage import Location

MB = 1_000_000


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with serve_s3() as url:
        yield url


@pytest.fixture
def store(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Location:
    """An empty folder of an S3 server."""
    use_s3(monkeypatch, endpoint)
    return Location.of(f"s3://games/{tmp_path.name}")


@pytest.fixture(params=["local", "s3"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """An empty folder, once on a disk and once on an S3 server."""
    return request.getfixturevalue("store") if request.param == "s3" else Location.of(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Location:
    """An empty folder on a disk, for what a store does no other way."""
    return Location.of(tmp_path / "store")


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A folder of eight games of 3 MB, which nobody opens: an upload looks at names and bytes alone."""
    random = np.random.default_rng(0)
    write_folder(tmp_path / "large", {f"{n:032x}": random.bytes(3 * MB) for n in range(8)})
    return tmp_path / "large"


def upload(source: Path, target: Location, shard_mb: float = 0.05, **options: object) -> UploadSummary:
    return upload_games(str(source), str(target), UploadOptions(shard_mb=shard_mb, **options))  # type: ignore[arg-type]


def read_all(folder: Location) -> dict[str, bytes]:
    return {e.name: (folder / e.name).read_bytes() for e in folder.list_entries() if e.name != "upload.json"}


def test_uploaded_games_give_the_same_data_set_as_their_folder(tmp_path: Path, target: Location) -> None:
    names = write_games(tmp_path / "games", range(7))
    (tmp_path / "games/frame_ids").mkdir()
    np.save(tmp_path / "games/frame_ids" / f"{names[3]}.npy", np.r_[0:20, 18:41].astype(np.int32))
    summary = upload(tmp_path / "games", target)
    assert (summary.games, summary.rejected) == (7, []) and summary.objects > 1
    loose = encode_here(tmp_path / "games", tmp_path / "loose").index
    there = encode_here(target, tmp_path / "there").index  # type: ignore[arg-type]
    assert there.fingerprint == loose.fingerprint and len(there.games) == 7
    assert {game.repeats for game in there.games} == {"unknown", "2 dropped"}


def test_the_manifest_names_every_object_with_the_sha256_of_its_bytes(tmp_path: Path, target: Location) -> None:
    write_games(tmp_path / "games", range(5))
    upload(tmp_path / "games", target)
    manifest = read_manifest(target)
    assert manifest is not None
    assert {o.name: (o.size, o.sha256) for o in manifest.objects} == {
        e.name: (e.size, (target / e.name).compute_sha256()) for e in target.list_entries() if e.name.endswith(".tar")
    }


def test_a_second_upload_sends_nothing_and_another_folder_gets_the_same_bytes(tmp_path: Path, target: Location) -> None:
    write_games(tmp_path / "games", range(5))
    first = upload(tmp_path / "games", target)
    manifest = (target / "upload.json").read_bytes()
    again = upload(tmp_path / "games", target)
    assert (again.sent, again.skipped, again.damaged) == (0, first.objects, [])
    assert (target / "upload.json").read_bytes() == manifest
    upload(tmp_path / "games", Location.of(tmp_path / "other"))
    assert read_all(Location.of(tmp_path / "other")) == read_all(target)


def test_a_changed_game_replaces_the_shard_that_holds_it_and_no_other(tmp_path: Path, target: Location) -> None:
    names = write_games(tmp_path / "games", range(6))
    upload(tmp_path / "games", target)
    before = read_all(target)
    encode_here(target, tmp_path / "blocks")  # type: ignore[arg-type]
    (tmp_path / "games/games" / names[2]).write_bytes(as_file(toy_columns(99, 40)))
    summary = upload(tmp_path / "games", target)
    after = read_all(target)
    assert len(summary.replaced) == 1 and summary.sent == 1
    assert before.keys() - after.keys() == {*summary.replaced}
    assert all(after[name] == content for name, content in before.items() if name not in summary.replaced)
    encoded = encode_here(target, tmp_path / "blocks")  # type: ignore[arg-type]
    assert encoded.encoded < 6 and not encoded.rejected
    assert encoded.index.fingerprint == encode_here(tmp_path / "games", tmp_path / "loose").index.fingerprint


def test_new_games_come_in_new_shards_and_those_of_another_folder_stay(tmp_path: Path, folder: Location) -> None:
    write_games(tmp_path / "first", range(3))
    write_games(tmp_path / "second", range(3, 6))
    upload(tmp_path / "first", folder)
    before = read_all(folder)
    summary = upload(tmp_path / "second", folder)
    assert summary.games == 6 and summary.others == len(before) and summary.replaced == []
    assert read_all(folder).items() > before.items()
    assert len(encode_here(folder, tmp_path / "blocks").index.games) == 6  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", [lambda b: bytes([b[0] ^ 1]) + b[1:], lambda b: b[:-1], None])
def test_an_object_that_was_damaged_or_deleted_there_is_sent_again(
    tmp_path: Path, target: Location, damage: object
) -> None:
    write_games(tmp_path / "games", range(5))
    upload(tmp_path / "games", target)
    whole = read_all(target)
    name = sorted(whole)[1]
    if callable(damage):
        (target / name).write_bytes(damage(whole[name]))
    else:
        (target / name).delete()
    summary = upload(tmp_path / "games", target)
    assert summary.damaged == ([name] if damage else []) and summary.sent == 1
    assert read_all(target) == whole


def test_damage_that_the_stores_tag_hides_is_found_by_reading_back(tmp_path: Path) -> None:
    write_games(tmp_path / "games", range(3))
    target = Location.of(tmp_path / "store")
    upload(tmp_path / "games", target)
    path = next((tmp_path / "store").glob("*.tar"))
    times, content = path.stat(), path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert upload(tmp_path / "games", target).sent == 0
    assert upload(tmp_path / "games", target, read_back=True).damaged == [path.name]
    assert path.read_bytes() == content


def test_damaged_games_that_the_source_does_not_have_are_named(tmp_path: Path) -> None:
    write_games(tmp_path / "first", range(2))
    write_games(tmp_path / "second", range(2, 4))
    target = Location.of(tmp_path / "store")
    upload(tmp_path / "first", target, shard_mb=9.0)
    (lost,) = (tmp_path / "store").glob("*.tar")
    lost.write_bytes(b"damaged")
    with pytest.raises(UserError, match=f"damaged, with games that .*second does not have: {lost}"):
        upload(tmp_path / "second", target)


def test_files_are_sent_as_they_are_and_a_changed_one_again(tmp_path: Path, folder: Location) -> None:
    write_games(tmp_path / "games", range(4))
    pack_games(str(tmp_path / "games"), str(tmp_path / "shards"), shard_mb=0.05)
    upload(tmp_path / "shards", folder)
    tars = {path.name: path.read_bytes() for path in (tmp_path / "shards").glob("*.tar")}
    assert read_all(folder) == tars and len(tars) > 1
    changed = tmp_path / "shards/shard-000000.tar"
    changed.write_bytes(tars[changed.name] + bytes(10240))
    summary = upload(tmp_path / "shards", folder)
    assert (summary.sent, summary.damaged) == (1, [])
    assert (folder / changed.name).read_bytes() == changed.read_bytes()


@pytest.mark.parametrize("name", ["meta.json", "index.json", "mine.tar", "shard-000000.tar"])
def test_what_no_upload_put_there_is_neither_mixed_in_nor_overwritten(
    tmp_path: Path, folder: Location, name: str
) -> None:
    write_games(tmp_path / "games", range(2))
    pack_games(str(tmp_path / "games"), str(tmp_path / "shards"))
    (folder / name).write_bytes(b"mine")
    with pytest.raises(UserError, match=f"{name}.*no upload put (it )?there"):
        upload(tmp_path / "shards", folder)
    assert read_all(folder) == {name: b"mine"}


def test_an_upload_that_has_not_ended_is_not_read_as_if_it_were_whole(
    tmp_path: Path, folder: Location, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_games(tmp_path / "games", range(5))
    send, sent = object_upload.send_object, []

    def send_one(location: Location, *arguments: object) -> object_upload.Digest:
        sent.append(location)
        if len(sent) > 1:
            raise StorageError("the network is gone")
        return send(location, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("worldmodel.games.upload.send_object", send_one)
    with pytest.raises(StorageError, match="the network is gone"):
        upload(tmp_path / "games", folder, threads=1)
    assert (folder / UNFINISHED).exists() and not (folder / "upload.json").exists()
    with pytest.raises(UserError, match="is not whole: an upload"):
        list_source(str(folder))
    assert main(["fetch", str(folder), str(tmp_path / "here")]) == 2
    assert "has not ended" in capsys.readouterr().err
    monkeypatch.setattr("worldmodel.games.upload.send_object", send)
    summary = upload(tmp_path / "games", folder)
    assert summary.skipped == 1 and not (folder / UNFINISHED).exists()
    assert len(encode_here(folder, tmp_path / "blocks").index.games) == 5  # type: ignore[arg-type]


def test_shards_of_an_upload_that_was_given_up_go_when_another_ends(tmp_path: Path, folder: Location) -> None:
    write_games(tmp_path / "games", range(2))
    (folder / "shard-000000-abc.tar").write_bytes(b"of the one that was given up")
    (folder / UNFINISHED).write_text('{"source": "/elsewhere", "objects": ["shard-000000-abc.tar"]}')
    upload(tmp_path / "games", folder)
    assert "shard-000000-abc.tar" not in read_all(folder)


def test_replaced_shards_stay_until_the_manifest_names_the_new_ones(
    tmp_path: Path, folder: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = write_games(tmp_path / "games", range(4))
    upload(tmp_path / "games", folder)
    before = read_all(folder)
    (tmp_path / "games/games" / names[1]).write_bytes(as_file(toy_columns(99, 40)))
    with monkeypatch.context() as patch:
        patch.setattr("worldmodel.games.upload.read_mark", lambda _: pytest.fail("ended before the manifest"))
        with pytest.raises(pytest.fail.Exception):
            upload(tmp_path / "games", folder)
    assert read_all(folder).items() >= before.items()
    replaced = upload(tmp_path / "games", folder).replaced
    assert len(replaced) == 1 and before.keys() - read_all(folder).keys() == {*replaced}


def test_two_uploads_into_one_folder_at_once_do_not_both_end_well(
    tmp_path: Path, folder: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_games(tmp_path / "first", range(3))
    write_games(tmp_path / "second", range(3, 6))
    send, begun = object_upload.send_object, []

    def send_while_another_begins(*arguments: object) -> object_upload.Digest:
        digest = send(*arguments)  # type: ignore[arg-type]
        if not begun:
            begun.append(True)
            upload(tmp_path / "second", folder)
        return digest

    monkeypatch.setattr("worldmodel.games.upload.send_object", send_while_another_begins)
    with pytest.raises(UserError, match="at the same time: run this one again"):
        upload(tmp_path / "first", folder, threads=1)
    with pytest.raises(UserError, match="is not whole"):
        list_source(str(folder))
    assert upload(tmp_path / "first", folder).games == 6
    assert len(encode_here(folder, tmp_path / "both").index.games) == 6  # type: ignore[arg-type]


def test_what_another_upload_stored_and_is_gone_is_told(tmp_path: Path, folder: Location) -> None:
    write_games(tmp_path / "first", range(2))
    write_games(tmp_path / "second", range(2, 4))
    upload(tmp_path / "first", folder)
    (name, *_) = read_all(folder)
    (folder / name).delete()
    assert upload(tmp_path / "second", folder).gone == [name]
    manifest = read_manifest(folder)
    assert manifest is not None and {o.name for o in manifest.objects} == read_all(folder).keys()


KILLED = """
import os, signal, sys
from worldmodel import object_upload
send, sent = object_upload._send_part, []
def send_two(*arguments):
    if len(sent) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    sent.append(send(*arguments))
    return sent[-1]
object_upload._send_part, object_upload.PARTS_AT_ONCE = send_two, 1
from worldmodel.cli.main import main
main(["upload", *sys.argv[1:], "--threads", "1", "--shard-mb", "40"])
"""


def test_an_upload_that_was_killed_goes_on_with_the_next_part(
    large: Path, store: Location, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {**os.environ, **SETTINGS, "AWS_ENDPOINT_URL": endpoint}
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(large), str(store)], env=environment, timeout=60, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    assert [entry.name for entry in store.list_entries()] == [UNFINISHED]
    send, sent = object_upload._send_part, []
    monkeypatch.setattr(object_upload, "_send_part", lambda *a: sent.append(len(a[1])) or send(*a))
    summary = upload(large, store, shard_mb=40.0)
    assert [bool(length) for length in sent] == [False, False, True], "the parts that had arrived were sent again"
    assert (summary.objects, summary.games, summary.sent) == (1, 8, 1)
    (name,) = read_all(store)
    manifest = read_manifest(store)
    assert manifest is not None and (store / name).compute_sha256() == manifest.objects[0].sha256


def test_broken_connections_neither_end_nor_damage_an_upload_and_a_fetch(
    large: Path, store: Location, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cutting(endpoint, after=4 * MB, times=4) as (inner, parts), cutting(inner, after=100, times=2) as (url, first):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        upload(large, store, shard_mb=12.0)
        assert (parts.made, first.made) == (4, 2)
    with cutting(endpoint, after=2 * MB, times=4) as (url, cuts):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        assert main(["fetch", str(store), str(tmp_path / "here")]) == 0
        assert cuts.made == 4
    upload(large, Location.of(tmp_path / "direct"), shard_mb=12.0)
    assert read_all(Location.of(tmp_path / "here")) == read_all(Location.of(tmp_path / "direct"))


def test_a_store_that_keeps_other_bytes_than_it_was_sent_is_named(
    tmp_path: Path, store: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_games(tmp_path / "games", range(2))
    send = object_upload.send_object

    def send_and_spoil(location: Location, *arguments: object) -> object_upload.Digest:
        digest = send(location, *arguments)  # type: ignore[arg-type]
        location.write_bytes(bytes(digest.size))
        return digest

    monkeypatch.setattr("worldmodel.games.upload.send_object", send_and_spoil)
    with pytest.raises(StorageError, match="was sent 3 times, and is not what was sent"):
        upload(tmp_path / "games", store)
    assert not (store / "upload.json").exists()


def test_a_game_that_changes_meanwhile_ends_the_upload(
    tmp_path: Path, store: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = write_games(tmp_path / "games", range(2))
    send = object_upload.send_object

    def change_and_send(*arguments: object) -> object_upload.Digest:
        (tmp_path / "games/games" / names[1]).write_bytes(b"other")
        return send(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("worldmodel.games.upload.send_object", change_and_send)
    with pytest.raises(UserError, match=f"{names[1]} changed while it was uploaded: upload again"):
        upload(tmp_path / "games", store)


def test_what_the_source_does_not_give_is_told(
    tmp_path: Path, store: Location, capsys: pytest.CaptureFixture[str]
) -> None:
    content = as_file(toy_columns(1, 30))
    write_folder(tmp_path / "games", {name_of(content): content})
    meta = tmp_path / "games/meta.json"
    meta.write_text(json.dumps([*json.loads(meta.read_text()), {"slp_md5": "0" * 32}]))
    assert main(["upload", str(tmp_path / "games"), str(store)]) == 0
    shown = capsys.readouterr().out
    assert f"games/{'0' * 32}: named in meta.json, but there is no such file" in shown
    assert f"next: worldmodel encode {store}" in shown


@pytest.mark.parametrize("source", ["games", "shards", "games.pt"])
def test_what_is_told_to_be_next_names_what_was_uploaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    write_games(tmp_path / "games", range(2))
    pack_games(str(tmp_path / "games"), str(tmp_path / "shards"))
    (tmp_path / "games.pt").write_bytes(b"nobody opens it")
    assert main(["upload", str(tmp_path / source), f"{tmp_path}/a store/"]) == 0
    *_, line = capsys.readouterr().out.splitlines()
    (games,) = shlex.split(line.removeprefix("next: worldmodel encode ").removesuffix(" BLOCKS"))
    assert [Path(unit.uri).parent for unit in list_source(games).units] == [tmp_path / "a store"]


@pytest.mark.parametrize("options", [{"shard_mb": nan}, {"shard_mb": inf}, {"shard_mb": 0.0}, {"threads": 0}], ids=str)
def test_a_size_that_means_nothing_is_refused(tmp_path: Path, folder: Location, options: dict[str, float]) -> None:
    write_games(tmp_path / "games", range(2))
    with pytest.raises(UserError, match="expected more than 0"):
        upload(tmp_path / "games", folder, **options)  # type: ignore[arg-type]


def test_json_has_bytes_and_seconds(tmp_path: Path, store: Location, capsys: pytest.CaptureFixture[str]) -> None:
    write_games(tmp_path / "games", range(2))
    assert main(["upload", str(tmp_path / "games"), str(store), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["bytes"] == shown["sent_bytes"] == sum(map(len, read_all(store).values())) and shown["seconds"] > 0


def test_a_bucket_that_is_not_there_is_named(
    tmp_path: Path, store: Location, capsys: pytest.CaptureFixture[str]
) -> None:
    write_games(tmp_path / "games", range(2))
    assert main(["upload", str(tmp_path / "games"), "s3://gamse/melee"]) == 2
    assert "there is no bucket 'gamse'" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_told_with_what_to_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_games(tmp_path / "games", range(2))
    use_s3(monkeypatch, "http://127.0.0.1:1")
    assert main(["upload", str(tmp_path / "games"), "s3://games/melee"]) == 2
    assert "check the network and AWS_ENDPOINT_URL" in capsys.readouterr().err


def test_a_multipart_object_has_the_tag_that_was_computed(store: Location) -> None:
    content = np.random.default_rng(1).bytes(20 * MB)
    digest = object_upload.send_object(store / "large", iter([content[:5], content[5:]]), len(content))
    stored = object_upload.look_up(store / "large")
    assert stored is not None and (stored.size, stored.tag) == (digest.size, digest.tag)
    assert digest == object_upload.compute_digest([content], len(content))
    assert (store / "large").read_bytes() == content


@pytest.mark.parametrize("size", [1, 8 << 20, 80_000_000_001, 5 << 40])
def test_no_object_takes_more_parts_than_s3_allows(size: int) -> None:
    part = object_upload.measure_part(size)
    assert -(-size // part) <= 10_000 and 5 << 20 <= part <= 5 << 30


def test_a_bucket_whose_rights_are_lacking_is_told(
    tmp_path: Path, store: Location, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from botocore.exceptions import ClientError

    class Refusing:
        def __getattr__(self, name: str) -> object:
            def refuse(**_: object) -> object:
                answer = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
                raise ClientError(answer, name)

            return refuse

    write_games(tmp_path / "games", range(2))
    monkeypatch.setattr(object_upload, "_open_client", Refusing)
    assert main(["upload", str(tmp_path / "games"), str(store)]) == 2
    assert "AccessDenied" in (told := capsys.readouterr().err) and "what they may do with this bucket" in told
