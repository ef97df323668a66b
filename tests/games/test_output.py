"""One process at a time writes into a folder, and a process that ended keeps nobody out."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.games_on_disk import encode_here, write_games
from worldmodel.blocks.index import read_index
from worldmodel.errors import UserError
from worldmodel.games.output import LOCK, writing_alone
from worldmodel.games.parse import parse_replays
from worldmodel.storage import Location

HOLDER = """
import sys, time
from worldmodel.games.output import writing_alone
from worldmodel.storage import Location
with writing_alone(Location.of(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that writes into a folder, and is killed at the end."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_writer_is_refused_by_name_and_a_killed_one_keeps_nobody_out(tmp_path: Path) -> None:
    write_games(tmp_path / "games", range(2))
    encode_here(tmp_path / "games", tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "replays").mkdir()
    (tmp_path / "replays" / "a.slp").write_bytes(b"")
    with held(tmp_path / "out") as process:
        for write in (
            lambda: encode_here(tmp_path / "games", tmp_path / "out"),
            lambda: parse_replays(tmp_path / "replays", tmp_path / "out"),
        ):
            with pytest.raises(UserError, match=f"out is being written by process {process.pid} on .*: wait until"):
                write()
    assert {path: path.read_bytes() for path in before} == before
    assert encode_here(tmp_path / "games", tmp_path / "out").encoded == 0
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before  # nor is a lock left


def test_encodings_of_one_folder_that_wait_for_each_other_leave_one_whole_data_set(tmp_path: Path) -> None:
    write_games(tmp_path / "games", range(3))
    told, done = list[str](), list[int]()

    def encode() -> None:
        done.append(encode_here(tmp_path / "games", tmp_path / "out", on_wait=told.append).encoded)

    threads = [threading.Thread(target=encode) for _ in range(3)]
    with writing_alone(Location.of(tmp_path / "out")):
        for thread in threads:
            thread.start()
        while len(told) < len(threads):
            assert all(thread.is_alive() for thread in threads)
        assert done == []
    for thread in threads:
        thread.join(60)
    assert sorted(done) == [0, 0, 3]
    assert all(text.endswith(f"written by process {os.getpid()} on {os.uname().nodename}: waiting until it has ended")
               for text in told)  # fmt: skip
    index = read_index(Location.of(tmp_path / "out"))
    assert len(index.games) == 3 and all((tmp_path / "out" / block.name).is_file() for block in index.blocks)


def test_a_refused_request_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        encode_here(tmp_path / "nowhere", tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write into .*file/out"):
        encode_here(tmp_path, tmp_path / "file" / "out")


def test_an_object_store_is_written_without_a_lock() -> None:
    with writing_alone(Location.of("s3://nowhere/out")), writing_alone(Location.of("s3://nowhere/out")):
        pass  # and without a request


def test_the_folder_may_vanish_while_it_is_waited_for(tmp_path: Path) -> None:
    found = list[bool]()

    def wait() -> None:
        with writing_alone(Location.of(tmp_path / "new"), on_wait=lambda text: found.append(False)):
            found.append((tmp_path / "new" / LOCK).exists())

    waiter = threading.Thread(target=wait)
    with writing_alone(Location.of(tmp_path / "new")):
        waiter.start()
        while not found:
            assert waiter.is_alive()
    waiter.join(10)
    assert found == [False, True]
