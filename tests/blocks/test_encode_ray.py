"""Encoding on Ray: the same data set as without it, from and to an object store, in bounded memory."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.games_on_disk import encode_here, write_games
from tests.s3_server import serve_s3, use_s3
from worldmodel.blocks.encode import EncodeOptions, encode
from worldmodel.blocks.index import read_index
from worldmodel.errors import UserError
from worldmodel.features.verification import audit_blocks
from worldmodel.ray_session import join_ray
from worldmodel.storage import Location

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]
OPTIONS = EncodeOptions(cpus=2)
MOST_BYTES = 10**9


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    import ray

    join_ray(2)
    yield
    ray.shutdown()


def test_ray_gives_the_data_set_that_one_process_gives(tmp_path: Path) -> None:
    write_games(tmp_path / "games", range(10))
    told: list[tuple[int, int]] = []
    found = encode(
        str(tmp_path / "games"), str(tmp_path / "a"), OPTIONS, lambda _, done, total: told.append((done, total))
    )
    assert found.index == encode_here(tmp_path / "games", tmp_path / "b").index
    assert told[-1] == (10, 10)


def test_workers_do_not_load_torch() -> None:
    import ray

    rows = ray.data.range(4, override_num_blocks=4).map(lambda row: {"torch": "torch" in sys.modules}).take_all()
    assert rows == [{"torch": False}] * 4


def test_a_workers_user_error_arrives_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "games.pt").write_bytes(b"no tensors")
    with pytest.raises(UserError) as caught:
        encode(str(tmp_path / "games.pt"), str(tmp_path / "out"), OPTIONS)
    assert type(caught.value) is UserError
    assert "Traceback" not in str(caught.value) and "not a readable .pt file" in str(caught.value)
    write_games(tmp_path / "games", range(2))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write") as caught:
        encode(str(tmp_path / "games"), str(tmp_path / "file" / "out"), OPTIONS)
    assert "Traceback" not in str(caught.value)


def test_games_in_an_object_store_become_blocks_in_an_object_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = write_games(tmp_path / "games", range(5))
    with serve_s3() as url:
        use_s3(monkeypatch, url)
        source, out = "s3://games/parsed", Location.of("s3://games/blocks")
        for path in (tmp_path / "games").rglob("*"):
            if path.is_file():
                Location.of(f"{source}/{path.relative_to(tmp_path / 'games')}").upload(path)
        first = encode(source, str(out), OPTIONS)
        assert read_index(out) == first.index == encode_here(tmp_path / "games", tmp_path / "local").index
        assert [game.md5 for game in first.index.games] == names
        assert encode(source, str(out), OPTIONS).encoded == 0
        report = audit_blocks(str(out), source)
        assert report.is_clean and report.games_checked == 5 and report.samples_checked


def test_a_worker_stays_below_a_gigabyte_on_real_games(shared_folder: Path, tmp_path: Path) -> None:
    peak, is_done = [0], threading.Event()

    def watch() -> None:
        while not is_done.wait(0.1):
            for process in psutil.process_iter(["cmdline"]):
                if (process.info["cmdline"] or [""])[0].startswith("ray::Map"):
                    try:
                        peak[0] = max(peak[0], process.memory_full_info().uss)
                    except psutil.NoSuchProcess:
                        continue

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        summary = encode(str(shared_folder / "data" / "games"), str(tmp_path / "out"), OPTIONS)
    finally:
        is_done.set()
        thread.join()
    assert summary.index.frames == 816_410
    assert 0 < peak[0] < MOST_BYTES
