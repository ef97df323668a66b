"""A batch is the stored rows, whether all frames are at hand or some blocks at a time, in any order of asking."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.games_on_disk import encode_here, write_games
from worldmodel.blocks.block import Block
from worldmodel.blocks.index import Index, read_index
from worldmodel.blocks.index import hash_file as hash_whole
from worldmodel.encoding import EncodingConfig
from worldmodel.errors import UserError
from worldmodel.features.plan import Plan, Samples, SampleShape
from worldmodel.features.store import FrameStore, StoreOptions
from worldmodel.features.view import FeatureView
from worldmodel.schema import Storage
from worldmodel.storage import Location

GAMES = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blocks of one game each, so that a partition has several."""
    root = tmp_path_factory.mktemp("many")
    write_games(root / "games", range(GAMES), frames=50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worldmodel.blocks.task.BLOCK_BYTES", 1)
        encode_here(root / "games", root / "blocks")
    return root / "blocks"


@pytest.fixture(scope="module")
def index(folder: Path) -> Index:
    found = read_index(Location.of(folder))
    assert len(found.blocks) == GAMES
    return found


def open_store(folder: Path, index: Index, blocks: int | None = None, with_items: bool = True) -> FrameStore:
    """Everything at hand, or so many blocks."""
    room = 1 << 40 if blocks is None else 0
    options = StoreOptions(resident_bytes=room, with_items=with_items, least_blocks=blocks or GAMES)
    return FrameStore(folder, index, index.games, options)


def make_samples(index: Index, picks: list[tuple[int, float]]) -> Samples:
    games = np.array([game for game, _ in picks], dtype=np.int64)
    starts = [int(share * (index.games[game].frames - 1)) for game, share in picks]
    return Samples(games, np.array(starts, dtype=np.int64))


def put_together(store: FrameStore, samples: Samples, frames: int) -> dict[Storage, np.ndarray]:
    found: dict[Storage, np.ndarray] = {}
    for places, part in store.gather(samples, frames):
        for storage, column in part.columns.items():
            whole = found.setdefault(storage, np.zeros((len(samples), *column.shape[1:]), column.numpy().dtype))
            whole[places] = column.numpy()
    return found


picks = st.lists(st.tuples(st.integers(0, GAMES - 1), st.floats(0, 1)), min_size=1, max_size=40)


@given(picks=picks, frames=st.integers(1, 90), blocks=st.sampled_from([None, 1, 3, GAMES]))
@settings(max_examples=40, deadline=None)
def test_a_sample_is_its_games_rows_with_the_last_one_repeated(
    folder: Path, index: Index, picks: list[tuple[int, float]], frames: int, blocks: int | None
) -> None:
    samples = make_samples(index, picks)
    found = put_together(open_store(folder, index, blocks), samples, frames)
    for place, (game, start) in enumerate(zip(samples.games, samples.starts, strict=True)):
        entry = index.games[game]
        block = Block.open(folder / entry.block)
        rows = entry.row + np.minimum(start + np.arange(frames), entry.frames - 1)
        for storage in Storage:
            expected = block.matrices[storage][rows]
            assert np.array_equal(found[storage][place].view(expected.dtype), expected), storage


@given(steps=st.lists(st.integers(0, 200), min_size=1, max_size=12), blocks=st.sampled_from([1, 2, 9, GAMES]))
@settings(max_examples=15, deadline=None)
def test_streaming_gives_the_resident_batches_bit_for_bit_in_any_order_of_steps(
    folder: Path, index: Index, steps: list[int], blocks: int
) -> None:
    shape = SampleShape(mode="sequence", context=4, length=16, lookahead=1)
    plan = Plan(index.games, shape, 6, 0)
    view = FeatureView(EncodingConfig(projectiles=True, lookahead=1, state_flags=True))
    resident, streaming = open_store(folder, index), open_store(folder, index, blocks)
    assert (resident.is_resident, streaming.is_resident) == (True, False)
    for step in steps:
        streaming.expect(plan.blocks_ahead(step, frozenset(range(8))))
        pairs = [view.view(store, plan.global_batch(step), shape) for store in (resident, streaming)]
        for kind in range(2):
            first, second = (flatten(pair[kind]) for pair in pairs)
            assert first.keys() == second.keys()
            assert all(torch.equal(first[name], second[name]) for name in first)


def flatten(batch: object) -> dict[str, torch.Tensor]:
    found = {}
    for field in dataclasses.fields(batch):  # type: ignore[arg-type]
        value = getattr(batch, field.name)
        items = value.items() if isinstance(value, dict) else [("", value)]
        found |= {f"{field.name}/{name}": tensor for name, tensor in items}
    return found


def test_what_streams_takes_no_more_memory_than_its_blocks_and_says_so(folder: Path, index: Index) -> None:
    small, large, whole = (open_store(folder, index, blocks) for blocks in (2, 8, None))
    sizes = [sum(pool.rows_bytes for pool in store._pools) for store in (small, large, whole)]
    assert (
        sizes[0] * 4 == sizes[1] < sizes[2] == sum(game.frames for game in index.games) * whole._pools[0].format.width
    )
    text = small.describe()
    assert "stream" in text and str(folder) in text and f"2 of {GAMES} blocks" in text
    assert "stream" not in whole.describe()


def test_a_stream_begins_once_its_first_blocks_are_there(
    folder: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, has_begun = [], threading.Event()

    def hash_file(path: Path) -> str:
        read.append(path.name)
        assert len(read) <= needed + 1 or has_begun.wait(10)  # one may be on its way before the batch is asked for
        return hash_whole(path)

    monkeypatch.setattr("worldmodel.features.shelf.hash_file", hash_file)
    plan = Plan(index.games, SampleShape(mode="sequence", context=4, length=16), 2, 0)
    first = plan.global_batch(0)
    needed = len(set(first.games.tolist()))
    store = open_store(folder, index, GAMES - 2)
    store.expect(plan.blocks_ahead(0, frozenset(range(8))))
    store.gather(first, 16)
    has_begun.set()
    until = time.monotonic() + 30
    while set(read) < {block.name for block in index.blocks} and time.monotonic() < until:
        time.sleep(0.05)
    assert set(read) == {block.name for block in index.blocks}  # also those that there is no room for


@pytest.mark.parametrize("blocks", [None, 2])
@pytest.mark.parametrize("damage", ["short", "changed", "gone"])
def test_a_damaged_block_is_named_before_anything_is_read(
    folder: Path, index: Index, tmp_path: Path, damage: str, blocks: int | None
) -> None:
    """But for content where frames stream: its hash is looked at while the first batches are trained on."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = tmp_path / index.blocks[7].name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        middle = len(content) // 2
        path.write_bytes(
            content[:middle] + (b"" if damage == "short" else bytes([content[middle] ^ 1]) + content[middle + 1 :])
        )
    with pytest.raises(UserError, match=path.name) as caught:
        store = open_store(tmp_path, index, blocks)
        assert (damage, blocks) == ("changed", 2)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            store.gather(Samples(np.array([0]), np.array([0])), 16)
    assert {"short": "bytes", "changed": "sha256", "gone": "gone"}[damage] in str(caught.value)


@given(picks=picks, frames=st.integers(1, 60))
@settings(max_examples=15, deadline=None)
def test_what_a_device_selects_is_what_is_copied_here(
    folder: Path, index: Index, picks: list[tuple[int, float]], frames: int
) -> None:
    samples, here, apart = make_samples(index, picks), open_store(folder, index), open_store(folder, index)
    for pool in apart._pools:
        pool._rows._is_here = False
    first, second = (put_together(store, samples, frames) for store in (here, apart))
    assert all(np.array_equal(first[storage], second[storage]) for storage in Storage)
