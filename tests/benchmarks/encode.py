"""Encoding: games from the parsed layout into finished blocks (verified, hashed, audited, indexed)."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.options import Options
from tests.benchmarks.race import Contestant, Pairing, compare, race
from tests.benchmarks.row import Goal, Row
from worldmodel.blocks.encode import EncodeOptions, encode
from worldmodel.games.source import list_source
from worldmodel.games.tar import pack_games

AREA, UNIT = "encode", "games"
LIST_GAMES = 3
"""Games that the list reader is given: it takes a third of a second for each."""
COUNTS = (100, 500, 2000)
"""Games of the data sets whose memory is compared."""
USERS_GAMES = (22_000, 230_000)
"""Games of the users' data sets."""
STORE_GAMES = 204


def measure(options: Options) -> list[Row]:
    """All rows on encoding."""
    return [*_race_readers(options), *_measure_ray(options), *_measure_store(options)]


def _race_readers(options: Options) -> list[Row]:
    shards = options.scratch / "shards"
    pack_games(str(options.games), str(shards))
    files = [Path(unit.uri).read_bytes() for unit in list_source(str(options.games)).units]
    out = options.scratch / "encoded"
    rounds = race(
        [
            Contestant(name="loose files", run=lambda: _encode(options.games, out)),
            Contestant(name="tar shards", run=lambda: _encode(shards, out)),
            Contestant(name="zlib + parquet to Arrow", run=lambda: _apply(_read_arrow, files)),
            Contestant(name="a list per field", run=lambda: _apply(_read_lists, files[:LIST_GAMES])),
        ],
        options.rounds,
    )
    floor = Pairing(
        area=AREA, unit=UNIT, measured="loose files", against="zlib + parquet to Arrow",
        goal=Goal(of="value", least=100),
        note="the other decodes every column and does nothing with it",
    )  # fmt: skip
    lists = "the other reads a Python list per field but no controller and no items, and encodes nothing"
    return [
        compare(rounds, floor),
        compare(rounds, Pairing(area=AREA, unit=UNIT, measured="tar shards", against="loose files",
                                goal=Goal(of="ratio", least=0.95))),
        compare(rounds, Pairing(area=AREA, unit=UNIT, measured="loose files", against="a list per field",
                                goal=Goal(of="ratio", least=10), note=lists)),
    ]  # fmt: skip


def _encode(source: Path, out: Path) -> float:
    for path in out.glob("*"):
        path.unlink()
    return float(len(encode(str(source), str(out), EncodeOptions(cpus=0)).index.games))


def _apply(read: Callable[[bytes], object], files: list[bytes]) -> float:
    for content in files:
        read(content)
    return float(len(files))


def _read_arrow(content: bytes) -> pa.Table:
    return pq.ParquetFile(io.BytesIO(zlib.decompress(content))).read(use_threads=False)


def _read_lists(content: bytes) -> dict[str, np.ndarray]:
    """A Python list per field of both players, then an array of it: how the users read a game."""
    root = _read_arrow(content).column("root").combine_chunks()
    return {
        f"{player}.{field.name}": np.array(root.field(player).field(field.name).to_pylist())
        for player in ("p0", "p1")
        for field in root.type.field(player).type
        if not pa.types.is_struct(field.type)
    }


def _measure_ray(options: Options) -> list[Row]:
    """Ray's tasks against one process, and memory against the number of games; each in processes of their own."""
    folders = [_replicate(options.games, options.scratch / f"games-{count}", count) for count in COUNTS]
    plain = _run_apart("ray_run", str(folders[-1]), str(options.scratch / "plain"), "0")
    rays = [_run_apart("ray_run", str(folder), str(options.scratch / "rays"), "2") for folder in folders]
    mib = 2**20
    rate, plain_rate = (run["games"] / run["cpu_seconds"] for run in (rays[-1], plain))
    overhead = Row(
        area=AREA, unit="games per CPU-s", measured="Ray's tasks", value=rate, against="one process",
        value_against=plain_rate, ratio=rate / plain_rate, cpu_seconds=rays[-1]["cpu_seconds"],
        wall_seconds=rays[-1]["wall_seconds"], goal=Goal(of="ratio", least=0.85),
        note=f"{COUNTS[-1]} games; CPU of driver, raylet, control store and workers, once Ray has started",
    )  # fmt: skip
    slope = (rays[2]["cpu_seconds"] - rays[1]["cpu_seconds"]) / (COUNTS[2] - COUNTS[1])
    hours = ", ".join(f"{count:,} games: {slope * count / 3600:.2f} CPU-hours" for count in USERS_GAMES)
    memory = [
        Row(
            area=AREA, unit="MiB", measured=f"{who}, {COUNTS[-1]} games", value=rays[-1][key] / mib,
            against=f"{COUNTS[0]} games", value_against=rays[0][key] / mib, ratio=rays[-1][key] / rays[0][key],
            cpu_seconds=rays[-1]["cpu_seconds"], wall_seconds=rays[-1]["wall_seconds"],
            goal=Goal(of="value", most=1000),
            note=f"peak USS; {COUNTS[1]} games: {rays[1][key] / mib:.0f} MiB. {hours}, from the slope between sizes",
        )
        for who, key in (("a worker", "worker_bytes"), ("the driver", "driver_bytes"))
    ]  # fmt: skip
    return [overhead, *memory]


def _measure_store(options: Options) -> list[Row]:
    """Wall clock from a store that takes 20 ms for each answer."""
    games = _replicate(options.games, options.scratch / "store-games", STORE_GAMES)
    pack_games(str(games), str(options.scratch / "store-shards"))
    found = _run_apart("slow_store", str(games), str(options.scratch / "store-shards"))
    loose, tar = found["loose"], found["shards"]
    return [
        Row(
            area=AREA, unit="games per s", measured="tar shards, 20 ms away", value=STORE_GAMES / tar,
            against="loose files, 20 ms away", value_against=STORE_GAMES / loose, ratio=loose / tar, wall_seconds=tar,
            note=f"{STORE_GAMES} games; scaled to 2,200: shards {tar * 2200 / STORE_GAMES:.0f} s, loose files "
            f"{loose * 2200 / STORE_GAMES:.0f} s ({found['loose_requests'] / STORE_GAMES:.1f} requests a game); "
            "the users waited 600 s. The store itself is moto, in Python on the same cores",
        )
    ]  # fmt: skip


def _replicate(source: Path, target: Path, count: int) -> Path:
    """A parsed folder of `count` games: those of `source` again and again, each time under other names."""
    entries = json.loads((source / "meta.json").read_text())
    made = []
    for folder in ("games", "frame_ids"):
        (target / folder).mkdir(parents=True)
    for number in range(count):
        entry = entries[number % len(entries)]
        name = f"{number:08x}{entry['slp_md5'][8:]}"
        (target / "games" / name).symlink_to((source / "games" / entry["slp_md5"]).resolve())
        ids = source / "frame_ids" / f"{entry['slp_md5']}.npy"
        if ids.exists():
            (target / "frame_ids" / f"{name}.npy").symlink_to(ids.resolve())
        made.append({**entry, "slp_md5": name})
    (target / "meta.json").write_text(json.dumps(made))
    return target


def _run_apart(module: str, *arguments: str) -> dict[str, Any]:
    """Run a module of the benchmarks in a process of its own; its last line is what it found."""
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=600, cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
