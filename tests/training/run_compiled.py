"""Trains tiny models with and without torch.compile, and prints a line of JSON: what each learned.

A process of its own: torch.compile does not follow the type checks that the tests put around functions.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.utils import counters

from tests.training.tiny_runs import Log, are_equal, begin, configure, take_state
from worldmodel.storage import Location
from worldmodel.training.checkpoint_list import newest_good


def train(blocks: Path, log: Log, resume_from: Path | None = None, **changes: Any) -> Log:
    """A short run, compiled unless it is asked otherwise."""
    shared = {"training.compile": "compile", "training.max_steps": 8, "model.copy_prior": 2.0}
    log.run(begin(configure({**shared, **changes}), blocks, resume_from))
    return log


def main(blocks: Path, folder: Path) -> dict[str, Any]:
    """What the runs came to."""
    plain = train(blocks, Log(), **{"training.compile": "off"})
    assert not counters["stats"]
    whole = train(blocks, Log())
    train(blocks, Log(folder=folder, stop_at=3))
    saved = newest_good(Location.of(folder)).checkpoint
    assert saved is not None
    second = train(blocks, Log(), resume_from=folder)
    dropping = []
    for seed in range(2):
        torch.manual_seed(seed)  # what happened before in the process is of no account
        log = train(blocks, Log(), **{"model.dropout": 0.2, "training.max_steps": 2})
        dropping.append(take_state(log.trainer))
    return {
        "plain": plain.intervals,
        "compiled": whole.intervals,
        "programs": counters["stats"]["unique_graphs"],
        "names": list(saved.weights),
        "is_resumed_exactly": are_equal(take_state(second.trainer), take_state(whole.trainer)),
        "is_dropout_a_function_of_the_step": are_equal(*dropping),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
