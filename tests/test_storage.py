"""Storage and appended files against a local disk and against an S3 server in this process."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.s3_server import serve_s3, use_s3
from worldmodel.appender import open_appender
from worldmodel.errors import UserError
from worldmodel.object_store import AZURE, MissingError, StorageError, _may_exist
from worldmodel.storage import Location


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with serve_s3() as url:
        yield url


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Location:
    """An empty folder, once on the local disk and once in the S3 server."""
    if request.param == "local":
        return Location.of(tmp_path / "place")
    use_s3(monkeypatch, request.getfixturevalue("endpoint"))
    return Location.of(f"s3://games/{tmp_path.name}")


def read_sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_written_files_are_read_listed_measured_and_deleted(folder: Location) -> None:
    contents = {"a.txt": b"hello", "deep/b.bin": bytes(range(256)) * 100, "deep/er/c": b""}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    assert {n: (folder / n).read_bytes() for n in contents} == contents
    files = {e.name: e.size for e in folder.list_entries(recursive=True) if not e.is_folder}
    assert files == {name: len(content) for name, content in contents.items()}
    assert [(e.name, e.is_folder) for e in folder.list_entries()] == [("a.txt", False), ("deep", True)]
    (folder / "a.txt").delete()
    (folder / "a.txt").delete()
    (folder / "deep").delete()
    assert not (folder / "a.txt").exists()
    assert not (folder / "deep/b.bin").exists()
    assert [e for e in folder.list_entries(recursive=True) if not e.is_folder] == []


def test_a_missing_file_is_named(folder: Location) -> None:
    for act in (lambda: (folder / "no").read_bytes(), lambda: (folder / "no").measure_bytes()):
        with pytest.raises(MissingError, match=r"no file at .*/no"):
            act()
    assert folder.list_entries() == []


def test_a_name_that_is_not_utf_8_is_shown_escaped(tmp_path: Path) -> None:
    folder = tmp_path / "näive"
    (folder / "in").mkdir(parents=True)
    Path(os.fsdecode(bytes(folder / "in") + b"/a\xff.slp")).touch()
    with pytest.raises(UserError, match=r"näive holds 'in/a\\xff.slp', a name that is not UTF-8"):
        Location.of(folder).list_entries(recursive=True)


def test_the_parsed_text_survives_and_overwriting_replaces_it(folder: Location) -> None:
    file = folder / "card.md"
    file.write_text("long first version\n")
    file.write_text("naïve ☕\n")
    assert file.read_text() == "naïve ☕\n"
    assert file.measure_bytes() == len("naïve ☕\n".encode())


def test_uploaded_and_downloaded_bytes_are_the_same(folder: Location, tmp_path: Path) -> None:
    content = os.urandom(9 << 20)
    source = tmp_path / "source"
    source.write_bytes(content)
    file = folder / "weights.bin"
    assert file.upload(source) == read_sha256(content) == file.compute_sha256()
    target = tmp_path / "new" / "target"
    sizes: list[int] = []
    assert file.copy_to(target, expected_sha256=read_sha256(content), note=sizes.append) == read_sha256(content)
    assert sizes == sorted(sizes) and len(sizes) > 1 and sizes[-1] == len(content)
    assert target.read_bytes() == content
    assert [p.name for p in target.parent.iterdir()] == ["target"]


def test_an_interrupted_download_continues_where_it_ended(folder: Location, tmp_path: Path) -> None:
    content = os.urandom(100_000)
    file = folder / "weights.bin"
    file.write_bytes(content)
    target = tmp_path / "target"
    partial = file._name_partial(target)
    # Bytes that differ from the source show that what is there is kept, not fetched again.
    partial.write_bytes(b"\0" * 1000)
    file.copy_to(target)
    assert target.read_bytes() == b"\0" * 1000 + content[1000:]


def test_a_wrong_partial_file_is_fetched_again_whole(folder: Location, tmp_path: Path) -> None:
    content = os.urandom(10_000)
    file = folder / "weights.bin"
    file.write_bytes(content)
    target = tmp_path / "target"
    file._name_partial(target).write_bytes(b"\0" * 1000)
    file.copy_to(target, expected_sha256=read_sha256(content))
    assert target.read_bytes() == content


def test_two_downloads_of_one_file_at_once_both_leave_it_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, opened, both = os.urandom(100_000), Location.open_input, threading.Barrier(2)
    file, target = Location.of(tmp_path / "source"), tmp_path / "here" / "target"
    file.write_bytes(content)

    def open_together(location: Location) -> pa.NativeFile:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(timeout=0.3)  # neither writes before the other has begun, unless it is made to wait
        return opened(location)

    monkeypatch.setattr(Location, "open_input", open_together)
    with ThreadPoolExecutor(2) as pool:
        sums = list(pool.map(file.copy_to, [target, target]))
    assert sums == [read_sha256(content)] * 2
    assert target.read_bytes() == content and [*target.parent.iterdir()] == [target]


def test_the_sum_of_a_download_is_that_of_the_bytes_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file := Location.of(tmp_path / "source")).write_bytes(b"whole")
    synced = os.fsync

    def spoil(handle: int) -> None:
        synced(handle)
        os.truncate(handle, 3)

    monkeypatch.setattr(os, "fsync", spoil)
    with pytest.raises(StorageError, match=f"{read_sha256(b'who')}.*{read_sha256(b'whole')}"):
        file.copy_to(tmp_path / "target", expected_sha256=read_sha256(b"whole"))
    assert not (tmp_path / "target").exists()


def test_a_damaged_source_leaves_no_download_and_names_both_sums(folder: Location, tmp_path: Path) -> None:
    file = folder / "weights.bin"
    file.write_bytes(b"damaged")
    wanted = read_sha256(b"whole")
    with pytest.raises(StorageError, match=f"{read_sha256(b'damaged')}.*{wanted}"):
        file.copy_to(tmp_path / "target", expected_sha256=wanted)
    assert not (tmp_path / "target").exists()


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    file = Location.of(tmp_path / "run.json")
    file.write_text("old")
    with pytest.raises(RuntimeError), file._replacing() as stream:
        stream.write(b"new but torn")
        raise RuntimeError
    assert file.read_text() == "old"
    assert [e.name for e in Location.of(tmp_path).list_entries()] == ["run.json"]


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    file = Location.of(tmp_path / "state")
    file.write_bytes(b"a" * 200_000)
    done = threading.Event()
    seen: set[bytes] = set()

    def read() -> None:
        while not done.is_set():
            seen.add(file.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for letter in (b"b", b"c", b"d", b"e"):
        file.write_bytes(letter * 200_000)
    done.set()
    reader.join()
    assert {len(content) for content in seen} == {200_000}
    assert all(len(set(content)) == 1 for content in seen)


def test_an_object_that_is_replaced_while_it_is_read_is_read_whole(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_s3(monkeypatch, endpoint)
    place, opened = Location.of("s3://games/replaced"), Location.open_input
    place.write_text("short")
    longer = iter(["rather long", "longer than all the others"])

    def open_and_replace(location: Location) -> pa.NativeFile:
        stream = opened(location)
        for text in longer:
            location.write_text(text)
            break
        return stream

    monkeypatch.setattr(Location, "open_input", open_and_replace)
    assert place.read_text() == "longer than all the others"


def test_appended_lines_follow_those_of_earlier_sessions(folder: Location) -> None:
    file = folder / "metrics.jsonl"
    for part in (["one", "two"], ["three"]):
        appender = open_appender(file)
        for line in part:
            appender.write_line(line)
        appender.close()
        appender.close()
    assert file.read_text() == "one\ntwo\nthree\n"


def test_a_line_torn_by_a_crash_stays_alone(folder: Location) -> None:
    file = folder / "metrics.jsonl"
    file.write_text('{"a": 1}\n{"b"')
    appender = open_appender(file)
    appender.write_line('{"c": 3}')
    appender.close()
    assert file.read_text().splitlines() == ['{"a": 1}', '{"b"', '{"c": 3}']


def test_local_lines_are_there_at_once(tmp_path: Path) -> None:
    file = Location.of(tmp_path / "metrics.jsonl")
    appender = open_appender(file)
    appender.write_line("one")
    assert file.read_text() == "one\n"
    appender.close()


class NarrowDisk(io.BytesIO):
    """A file on a disk that takes three bytes at a time, and none where there is no room."""

    has_room = True

    def write(self, content: Any) -> int:
        if not self.has_room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(bytes(content)[:3])


def test_lines_wait_for_room_and_none_is_torn_or_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = NarrowDisk()
    monkeypatch.setattr(Path, "open", lambda path, mode, buffering: disk)
    appender = open_appender(Location.of(tmp_path / "metrics.jsonl"))
    appender.write_line("one")
    disk.has_room = False
    for line in ("two", "three"):
        with pytest.raises(StorageError, match="No space left"):
            appender.write_line(line)
    disk.has_room = True
    appender.write_line("four")
    assert disk.getvalue() == b"one\ntwo\nthree\nfour\n"
    disk.has_room = False
    with pytest.raises(StorageError, match="No space left"):
        appender.write_line("five")
    with pytest.raises(StorageError, match="No space left"):
        appender.close()
    assert disk.closed


def test_lines_reach_an_object_store_while_the_run_goes_on(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_s3(monkeypatch, endpoint)
    file = Location.of(f"s3://games/{tmp_path.name}/metrics.jsonl")
    appender = open_appender(file, upload_every=0.05)
    appender.write_line("one")
    deadline = time.monotonic() + 10
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert file.read_text() == "one\n"
    appender.close()


def test_a_store_that_is_gone_keeps_the_lines_on_disk(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_s3(monkeypatch, endpoint)
    appender = open_appender(Location.of(f"s3://games/{tmp_path.name}/metrics.jsonl"))
    appender.write_line("one")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StorageError, match="the lines are in ") as caught:
        appender.close()
    assert Path(str(caught.value).rsplit("the lines are in ", 1)[1]).read_text() == "one\n"


def test_a_bucket_that_does_not_exist_is_named(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_s3(monkeypatch, endpoint)
    for act in (Location.of("s3://gamse/x").list_entries, Location.of("s3://gamse/x").read_bytes):
        with pytest.raises(UserError, match=r"no bucket 'gamse'.*AWS_ENDPOINT_URL"):
            act()


def test_who_may_only_use_a_folder_of_a_bucket_is_not_asked_about_the_bucket() -> None:
    class Refusing(pafs.LocalFileSystem):
        def get_file_info(self, bucket: str) -> pafs.FileInfo:
            raise OSError(f"When getting information for bucket {bucket!r}: AWS Error ACCESS_DENIED")

    assert _may_exist(Refusing(), "games")


def test_azure_needs_the_name_of_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in AZURE:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(StorageError, match="set AZURE_STORAGE_ACCOUNT"):
        Location.of("az://games/x").exists()


def test_a_server_that_does_not_answer_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    use_s3(monkeypatch, "http://127.0.0.1:1")
    with pytest.raises(StorageError, match="check the network and AWS_ENDPOINT_URL"):
        Location.of("s3://games/x").exists()


def test_a_file_in_place_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"/file is a file, expected a folder$"):
        Location.of(tmp_path / "file").list_entries()
    with pytest.raises(MissingError, match=r"no file at .*/file/inside$"):
        Location.of(tmp_path / "file" / "inside").read_bytes()
    with pytest.raises(StorageError, match=r"cannot read .* is a directory$"):
        Location.of(tmp_path).read_bytes()


def test_a_folder_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"cannot write .*file/inside.*choose a folder"):
        Location.of(tmp_path / "file" / "inside").write_text("x")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("s3://", "names no bucket"),
        ("ftp://host/a", "scheme 'ftp' is unknown"),
        ("~nobody-of-this-name/a", "names no place: Could not determine home directory"),
        ("a\0b", "no zero byte"),
        ("a\udcff", r"'a\\udcff' names no place: .*utf-8"),
        ("s3://[a/b", "names no place: Invalid IPv6"),
        ("s3:/bucket/a", "lacks a slash: write s3://BUCKET"),
        ("file://data/games", "names 'data' as a machine: write file:///FOLDER"),
        ("abfss://games@mine.dfs.core.windows.net/a", "AZURE_STORAGE_ACCOUNT=mine and write az://games/a$"),
    ],
)
def test_impossible_places_are_refused(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Location.of(text)


PARTS = st.lists(st.text("abcXYZ019-_. ", min_size=1, max_size=8).filter(lambda p: p not in (".", "..")), min_size=1)


@pytest.mark.parametrize("root", ["/root", "s3://bucket", "gs://bucket/deep", "az://container"])
@settings(deadline=None)
@given(parts=PARTS)
def test_joining_and_parent_are_inverse(root: str, parts: list[str]) -> None:
    place = Location.of(root)
    for part in parts:
        inside = place / part
        assert (inside.name, inside.parent) == (part, place)
        place = inside
    assert Location.of(str(place)) == place
    assert place.scheme == ("file" if root.startswith("/") else root.split(":")[0])


def test_relative_paths_and_file_uris_are_absolute_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Location.of("a/b") == Location.of(tmp_path / "a" / "b") == Location.of(f"file://{tmp_path}/a/b")
    assert Location.of("gcs://bucket/a/") == Location.of("gs://bucket/a")
    assert Location.of("abfs://container/a/") == Location.of("az://container/a")
