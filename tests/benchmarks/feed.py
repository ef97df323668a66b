"""Feeding: typed batches per CPU-second against other readers of the same frames, streaming, and memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from unittest.mock import patch

import numpy as np

from tests.benchmarks.options import Options
from tests.benchmarks.peers.process import Peer
from tests.benchmarks.peers.readers import READERS
from tests.benchmarks.peers.typed import Samples, save_matrices
from tests.benchmarks.race import Contestant, Pairing, compare, race
from tests.benchmarks.row import Goal, Row
from worldmodel.blocks.block import Block
from worldmodel.blocks.encode import EncodeOptions, encode
from worldmodel.blocks.index import PARTITIONS, Index, read_index
from worldmodel.encoding import EncodingConfig
from worldmodel.features.plan import Plan, SampleShape
from worldmodel.features.store import FrameStore, StoreOptions
from worldmodel.features.view import FeatureView
from worldmodel.schema import Storage
from worldmodel.storage import Location

TURN_SECONDS = 0.25
"""CPU-seconds of a turn."""
SMALL_BLOCK = 1 << 20
"""Bytes of a block where frames stream, so that a hundred games are many blocks."""
ROOM_SHARE = 0.45
"""Room of a store that streams, as a share of what its frames need."""
IN_PROCESS = ("numpy memmap, strided", "numpy memmap, slices")
"""Readers that need numpy alone, and are measured in this process."""
FASTER = Goal(of="ratio", least=3)
LEVEL = Goal(of="ratio", least=1)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A batch's shape, and what is aimed at."""

    name: str
    shape: SampleShape
    batch_size: int
    goal: float
    """Target frames per CPU-second."""


CASES = (
    Case(name="sequences 8 x 256", shape=SampleShape(mode="sequence", context=10, length=256), batch_size=8, goal=4e6),
    Case(name="sequences 16 x 64", shape=SampleShape(mode="sequence", context=10, length=64), batch_size=16, goal=4e6),
    Case(name="windows 512, K=10", shape=SampleShape(mode="window", context=10, length=1), batch_size=512, goal=1e6),
)


def measure(options: Options) -> list[Row]:
    """Rows per shape: against every peer, then streaming against resident; last, memory."""
    index = read_index(Location.of(options.blocks))
    index = _keep_layout(index)
    store = FrameStore(options.blocks, index, index.games, StoreOptions())
    save_matrices(options.scratch / "typed", _join_blocks(options.blocks, index))
    rows = [row for case in CASES for row in _race_peers(case, store, index, options)]
    small = options.scratch / "small"
    with patch("worldmodel.blocks.task.BLOCK_BYTES", SMALL_BLOCK):
        encode(str(options.games), str(small), EncodeOptions(cpus=0))
    rows += [row for case in CASES for row in _race_streaming(case, small, options)]
    return [*rows, _compare_memory(small)]


def _keep_layout(index: Index) -> Index:
    """The games of the commonest layout: peers keep one matrix per storage type."""
    layouts = [block.layout for block in index.blocks]
    blocks = [block for block in index.blocks if block.layout == max(layouts, key=layouts.count)]
    names = {block.name for block in blocks}
    return Index(games=[game for game in index.games if game.block in names], blocks=blocks)


def _join_blocks(folder: Path, index: Index) -> dict[str, np.ndarray]:
    blocks = [Block.open(folder / entry.name) for entry in index.blocks]
    return {s.value: np.concatenate([block.matrices[s] for block in blocks]) for s in Storage}


def _take_samples(plan: Plan, index: Index) -> Samples:
    """One epoch of the plan, as rows of the joined blocks."""
    first = dict(zip([b.name for b in index.blocks], np.cumsum([0, *(b.frames for b in index.blocks)]), strict=False))
    begin = np.array([first[game.block] + game.row for game in index.games])
    end = begin + [game.frames - 1 for game in index.games]
    batches = [plan.global_batch(step) for step in range(plan.steps_per_epoch)]
    full = [batch for batch in batches if len(batch) == plan.batch_size] or batches[:1]
    return Samples(
        starts=np.stack([begin[batch.games] + batch.starts for batch in full]),
        last=np.stack([end[batch.games] for batch in full]),
        frames=plan.shape.frames,
        targets=len(full[0]) * plan.shape.positions,
    )


def _gather_turns(store: FrameStore, plan: Plan) -> Callable[[], float]:
    """Typed batches, step after step; like its peers, it is told which samples."""
    batches = cycle([plan.global_batch(step) for step in range(max(1, plan.samples // plan.batch_size))])

    def run() -> float:
        began, work = time.process_time(), 0
        while time.process_time() - began < TURN_SECONDS:
            store.gather(next(batches), plan.shape.frames)
            work += plan.batch_size * plan.shape.positions
        return work

    return run


def _read_turns(batches: Iterator[object], targets: int) -> Callable[[], float]:
    def run() -> float:
        began, work = time.process_time(), 0
        while time.process_time() - began < TURN_SECONDS:
            next(batches)
            work += targets
        return work

    return run


def _race_peers(case: Case, store: FrameStore, index: Index, options: Options) -> list[Row]:
    plan = Plan(index.games, case.shape, case.batch_size, 0)
    samples, typed = _take_samples(plan, index), options.scratch / "typed"
    with ExitStack() as stack:
        contestants = [Contestant(name="worldmodel", run=_gather_turns(store, plan))]
        for name, read in READERS.items():
            if name in IN_PROCESS:
                contestants.append(Contestant(name=name, run=_read_turns(read(typed, samples), samples.targets)))
            elif options.peers:
                folder = _prepare(options.scratch / f"{case.name} {name}", typed, samples)
                peer = Peer(name, options.peers, folder, TURN_SECONDS)
                stack.callback(peer.close)
                contestants.append(peer.contestant)
        rounds = race(contestants, options.rounds)
    return [compare(rounds, _pair(case, contestant.name)) for contestant in contestants]


def _prepare(folder: Path, typed: Path, samples: Samples) -> Path:
    folder.mkdir()
    for path in typed.glob("*.npy"):
        (folder / path.name).symlink_to(path)
    samples.save(folder)
    return folder


def _pair(case: Case, name: str) -> Pairing:
    is_own = name == "worldmodel"
    goal = Goal(of="value", least=case.goal) if is_own else LEVEL if name in IN_PROCESS else FASTER
    doc = None if is_own else READERS[name].__doc__
    return Pairing(
        area=f"feed: {case.name}", unit="targets", measured="worldmodel", against=None if is_own else name, goal=goal,
        note=f"{name} = {doc.strip()}" if doc and case is CASES[0] else "",
    )  # fmt: skip


def _race_streaming(case: Case, folder: Path, options: Options) -> list[Row]:
    index = read_index(Location.of(folder))
    plan = Plan(index.games, case.shape, case.batch_size, 0)
    everything = frozenset(range(PARTITIONS))
    resident = FrameStore(folder, index, index.games, StoreOptions())
    room = StoreOptions(
        resident_bytes=int(ROOM_SHARE * resident.bytes), least_blocks=plan.count_blocks_at_once(everything)
    )
    streaming = FrameStore(folder, index, index.games, room)
    view = FeatureView(EncodingConfig())

    def take_epoch(store: FrameStore, with_features: bool) -> float:
        steps = min(plan.steps_per_epoch, 1500)
        for step in range(steps):
            if not store.is_resident:
                store.expect(plan.blocks_ahead(step, everything))
            if with_features:
                view.view(store, plan.global_batch(step), case.shape)
            else:
                store.gather(plan.global_batch(step), case.shape.frames)
        return steps * case.batch_size * case.shape.positions

    rows = []
    for what, with_features in (("typed", False), ("with features", True)):
        contestants = [
            Contestant(name=name, run=lambda store=store, f=with_features: take_epoch(store, f))
            for name, store in (("streaming", streaming), ("resident", resident))
        ]
        goal = Goal(of="ratio", least=0.9) if with_features else Goal(of="value", least=0.9 * case.goal)
        pairing = Pairing(
            area=f"feed: {case.name}, {what}", unit="targets", measured="streaming", against="resident", goal=goal,
            note=streaming.describe() if case is CASES[0] and not with_features else "",
        )  # fmt: skip
        rows.append(compare(race(contestants, min(options.rounds, 3)), pairing))
    return rows


_MEMORY = """
import json, sys
from pathlib import Path
import psutil, torch
from worldmodel.blocks.index import PARTITIONS, read_index
from worldmodel.features.plan import Plan, SampleShape
from worldmodel.features.store import FrameStore, StoreOptions
from worldmodel.storage import Location
torch.set_num_threads(1)
folder, share = Path(sys.argv[1]), float(sys.argv[2])
index, everything = read_index(Location.of(folder)), frozenset(range(PARTITIONS))
plan = Plan(index.games, SampleShape(mode="sequence", context=10, length=256), 8, 0)
few = FrameStore(folder, index, index.games[:1], StoreOptions())
few.gather(plan.locate(plan.count_valid(plan.global_batch(0))[:1] * 0), 257)
read = psutil.Process().memory_info
before, most = read().rss, 0
needed = sum(block.bytes for block in index.blocks)
options = StoreOptions(resident_bytes=int(share * needed), least_blocks=plan.count_blocks_at_once(everything))
store = FrameStore(folder, index, index.games, options)
for step in range(plan.steps_per_epoch):
    store.expect(plan.blocks_ahead(step, everything))
    store.gather(plan.global_batch(step), 257)
    most = max(most, read().rss - before)
print(json.dumps({"most": most, "is_resident": store.is_resident}))
"""


def _compare_memory(folder: Path) -> Row:
    """Largest growth of resident memory over an epoch, in a process of its own each."""
    found = {}
    for name, share in {"streaming": ROOM_SHARE, "resident": 1e6}.items():
        script = [sys.executable, "-c", _MEMORY, str(folder), str(share)]
        done = subprocess.run(script, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
        answer = json.loads(done.stdout)
        assert answer["is_resident"] == (name == "resident"), "the room does not do what it is to show"
        found[name] = answer["most"] / 2**20
    return Row(
        area="feed: memory of an epoch", unit="MiB", measured="streaming", value=found["streaming"],
        against="resident", value_against=found["resident"], ratio=found["streaming"] / found["resident"],
        goal=Goal(of="ratio", most=ROOM_SHARE + 0.15), note=f"room for {ROOM_SHARE:.0%} of the frames",
    )  # fmt: skip
