"""A stand-in for CUDA graphs on a CPU: what a step does to tensors is recorded, and done again in the same memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from worldmodel.training.loop import Trainer


class Recording(TorchDispatchMode):
    """Every operation, with the tensors that it took and gave."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("a number is read on the host, which a capture forbids")
        given = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, given))
        return given

    def replay(self) -> None:
        """Do it all again: what was made then is overwritten where it lies."""
        with torch.no_grad():
            for func, args, kwargs, given in self.operations:
                made = func(*args, **kwargs)
                for old, new in zip(tree_leaves(given), tree_leaves(made), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class RecordedSteps:
    """Captures by recording. A graph's capture does nothing yet, but a recording does: its first replay is left out."""

    def __init__(self, fails_at: int | None = None) -> None:
        """`fails_at`: the capture (from 0) that fails."""
        self.warm = self.captured = self.replayed = 0
        self._fails_at = fails_at

    def warm_up(self, body: Callable[[], None]) -> None:
        self.warm += 1
        body()

    def capture(self, body: Callable[[], None]) -> Callable[[], None]:
        if self.captured == self._fails_at:
            self._fails_at = None
            raise RuntimeError("operation not permitted when stream is capturing\nand so on")
        self.captured += 1
        with Recording() as recording:
            body()
        fresh = [True]

        def replay() -> None:
            if not fresh:
                self.replayed += 1
                recording.replay()
            fresh.clear()

        return replay


def capture_here(trainer: Trainer, graphs: RecordedSteps | None) -> Trainer:
    """Let a trainer on a CPU do as it does on a GPU: constant shapes, steps from packets, and captures."""
    feed = trainer.feed
    feed.opens_in_step = feed.keeps_size = True
    for pool in feed.store._pools:
        pool._rows._is_here = False
    trainer.learner._graphs = graphs
    trainer.learner.forget_graphs()
    return trainer
