"""Remote blocks are fetched when they are needed, checked, and kept within the cache's bound."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.features.test_store import open_store, put_together
from tests.games_on_disk import encode_here, write_games
from tests.s3_server import serve_s3, use_s3
from worldmodel.blocks.index import Index, read_index
from worldmodel.errors import UserError
from worldmodel.features.plan import Samples
from worldmodel.features.shelf import CACHE_FOLDER, CACHE_GB, CachedShelf, open_shelf, read_cache_limit
from worldmodel.features.store import FrameStore, StoreOptions
from worldmodel.storage import Location

REMOTE = Location.of("s3://games/blocks")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("remote")
    write_games(root / "games", range(10), frames=40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worldmodel.blocks.task.BLOCK_BYTES", 1)
        encode_here(root / "games", root / "blocks")
    return root / "blocks"


@pytest.fixture
def index(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    with serve_s3() as url:
        use_s3(monkeypatch, url)
        monkeypatch.setenv(CACHE_FOLDER, str(tmp_path / "cache"))
        for file in folder.iterdir():
            (REMOTE / file.name).upload(file)
        yield read_index(REMOTE)


def limit_to(monkeypatch: pytest.MonkeyPatch, index: Index, blocks: float) -> CachedShelf:
    monkeypatch.setenv(CACHE_GB, repr(blocks * max(block.bytes for block in index.blocks) / 1e9))
    shelf = open_shelf(REMOTE)
    assert isinstance(shelf, CachedShelf)
    return shelf


def held_bytes(shelf: CachedShelf) -> int:
    return sum(path.stat().st_size for path in shelf.folder.glob("*.arrow"))


def test_frames_stream_through_a_cache_smaller_than_the_data(
    folder: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf, local = limit_to(monkeypatch, index, 3), open_store(folder, index)
    store = FrameStore(shelf, index, index.games, StoreOptions(resident_bytes=0, least_blocks=2, with_items=True))
    assert held_bytes(shelf) == 0, "nothing is fetched before it is needed"
    for game in [*range(10), 3, 0, 7]:
        samples = Samples(np.array([game, (game + 4) % 10]), np.array([5, 0]))
        found, expected = (put_together(each, samples, 30) for each in (store, local))
        assert all(np.array_equal(found[storage], expected[storage]) for storage in expected)
        assert held_bytes(shelf) <= shelf.limit_bytes
    assert "s3://games/blocks" in store.describe() and str(shelf.folder) in store.describe()


def test_what_is_cached_is_fetched_once_and_a_torn_copy_anew(
    folder: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = limit_to(monkeypatch, index, 100)
    for entry in index.blocks:
        first.open(entry)
    times = {path.name: path.stat().st_ino for path in first.folder.glob("*.arrow")}
    torn, short = (first.folder / entry.name for entry in index.blocks[:2])
    content = bytearray(torn.read_bytes())
    content[len(content) // 2] ^= 1
    torn.write_bytes(content)
    short.write_bytes(short.read_bytes()[:50])
    again = limit_to(monkeypatch, index, 100)
    for entry in index.blocks:
        again.open(entry)
        assert (again.folder / entry.name).read_bytes() == (folder / entry.name).read_bytes()
    now = {path.name: path.stat().st_ino for path in first.folder.glob("*.arrow")}
    assert {name for name in now if now[name] != times[name]} <= {torn.name, short.name}


def test_workers_share_a_small_cache_without_taking_each_others_blocks_away(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelves = [limit_to(monkeypatch, index, 1) for _ in range(4)]
    order = [(shelves[n % 4], index.blocks[(7 * n) % len(index.blocks)]) for n in range(60)]
    with ThreadPoolExecutor(4) as pool:
        blocks = list(pool.map(lambda job: job[0].open(job[1]), order))
    assert [sum(g["frames"] for g in block.games) for block in blocks] == [entry.frames for _, entry in order]
    assert not list(shelves[0].folder.glob(".*.part"))


@pytest.mark.parametrize("damage", ["short", "gone"])
def test_a_remote_block_that_is_gone_or_cut_short_is_named_before_anything_is_fetched(
    index: Index, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    where = REMOTE / index.blocks[4].name
    content = where.read_bytes()
    where.delete() if damage == "gone" else where.write_bytes(content[:-9])
    shelf = limit_to(monkeypatch, index, 100)
    with pytest.raises(UserError, match=index.blocks[4].name):
        FrameStore(shelf, index, index.games, StoreOptions(resident_bytes=0))
    assert held_bytes(shelf) == 0


def test_a_remote_block_with_other_content_ends_the_reading_with_its_name(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = index.blocks[4]
    where = REMOTE / entry.name
    content = bytearray(where.read_bytes())
    content[len(content) // 2] ^= 1
    where.write_bytes(bytes(content))
    store = FrameStore(limit_to(monkeypatch, index, 100), index, index.games, StoreOptions(resident_bytes=0))
    game = next(n for n, game in enumerate(index.games) if game.block == entry.name)
    with pytest.raises(UserError, match=f"{entry.name} is damaged"):
        store.gather(Samples(np.array([game]), np.array([0])), 5)
    assert not (store.shelf.folder / entry.name).exists()


@pytest.mark.parametrize("text", ["much", "0", "-1", "nan"])
def test_a_bound_that_is_no_number_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(CACHE_GB, text)
    with pytest.raises(UserError, match=f"{CACHE_GB}.*{text}"):
        read_cache_limit(tmp_path)
    monkeypatch.setenv(CACHE_GB, "2.5")
    assert read_cache_limit(tmp_path) == 2_500_000_000


SCRIPT = """
import sys
from pathlib import Path
import numpy as np
import psutil
from worldmodel.blocks.index import read_index
from worldmodel.features.plan import Samples
from worldmodel.features.store import FrameStore, StoreOptions
from worldmodel.storage import Location
folder, room = Path(sys.argv[1]), int(sys.argv[2])
index, memory = read_index(Location.of(folder)), psutil.Process().memory_info
store = FrameStore(folder, index, index.games[:1], StoreOptions())
store.gather(Samples(np.array([0]), np.array([0])), 50)
before, taken = memory().rss, []
store = FrameStore(folder, index, index.games, StoreOptions(resident_bytes=room, least_blocks=2))
for game in range(len(index.games)):
    store.gather(Samples(np.array([game]), np.array([0])), 50)
    taken.append(memory().rss - before)
print(max(taken), store.bytes)
"""


def test_memory_is_bounded_by_the_room_and_not_by_the_data(tmp_path: Path) -> None:
    write_games(tmp_path / "games", range(12), frames=10_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worldmodel.blocks.task.BLOCK_BYTES", 1)
        encode_here(tmp_path / "games", tmp_path / "blocks")
    grown = {}
    for name, room in {"streaming": 0, "resident": 1 << 40}.items():
        script = [sys.executable, "-c", SCRIPT, str(tmp_path / "blocks"), str(room)]
        done = subprocess.run(script, capture_output=True, text=True, check=True)
        grown[name], total = (int(text) for text in done.stdout.split())
    assert grown["resident"] > 0.8 * total
    assert grown["streaming"] < 0.45 * total  # two slots, the mapped block that is loaded, and what threads take
