"""One peer in a process of its own: `python -m tests.benchmarks.peers.serve NAME FOLDER`.

NAME is one of `readers.py`'s, or any other for transformers' mixer in the yardstick's step. Every line on stdin asks
for a turn of so many seconds; the answer is a line of JSON: targets and what they took.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.peers.readers import READERS
from tests.benchmarks.peers.typed import Samples
from tests.benchmarks.reference import BATCH


def main() -> None:
    """Answer until stdin ends; what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    batches, targets = open_peer(sys.argv[1], Path(sys.argv[2]))
    next(batches)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(take_turn(batches, targets, float(line))), file=answers, flush=True)


def open_peer(name: str, folder: Path) -> tuple[Iterator[Any], int]:
    """What the peer gives again and again, and the targets of each."""
    if name in READERS:
        samples = Samples.load(folder)
        return READERS[name](folder, samples), samples.targets
    from tests.benchmarks.peers.mixer import make_step

    step = make_step()
    return iter(step.run, None), BATCH


def take_turn(batches: Iterator[Any], targets: int, seconds: float) -> dict[str, float]:
    """Take batches for some CPU-seconds."""
    cpu, wall, work = time.process_time(), time.perf_counter(), 0
    while time.process_time() - cpu < seconds:
        next(batches)
        work += targets
    return {"work": work, "cpu_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - wall}


if __name__ == "__main__":
    main()
