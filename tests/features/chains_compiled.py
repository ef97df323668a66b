"""Compiles the chains that make a batch's features on a GPU, and prints the largest difference that it makes.

A process of its own: torch.compile does not follow the type checks that the tests put around functions.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from tests.training.tiny_runs import begin, configure
from worldmodel.features import rows, view
from worldmodel.training import interval

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "swapped": {"training.swap_players": True, "encoding.state_age_as_embed": True},
    "all": {
        "training.swap_players": True, "encoding.projectiles": True, "encoding.press_events": True,
        "encoding.lookahead": 1, "encoding.state_flags": True, "encoding.hitstun": True,
    },
}  # fmt: skip
CHAINS = ((view, "look"), (rows, "spread"), (interval, "_take_in"))


def main(blocks: Path) -> float:
    """The largest difference between what compiled chains give and what they give as they are written."""
    worst = 0.0

    def compare(chain: Any) -> Any:
        compiled = torch.compile(chain, fullgraph=True, dynamic=False, backend="aot_eager")

        def run(*args: Any) -> Any:
            nonlocal worst
            expected = chain(*args)
            for own, other in zip(tree_leaves(compiled(*args)), tree_leaves(expected), strict=True):
                assert isinstance(own, Tensor) and own.dtype == other.dtype and own.shape == other.shape
                worst = max(worst, float((own.double() - other.double()).abs().max()))
            return expected

        return run

    for owner, name in CHAINS:
        setattr(owner, name, compare(getattr(owner, name).__wrapped__))
    for changes in CASES.values():
        torch._dynamo.reset()
        trainer = begin(configure(changes), blocks)
        trainer.feed.opens_in_step = True
        trainer.feed.store._pools[0]._rows._is_here = False
        trainer.learner.run(0, 1e-3, trainer.learner.make(0, 1e-3))
    return worst


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(main(Path(sys.argv[1])))
