"""What a model remembers of the frames it has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class State:
    """A model's memory of B games, to go on with their next frames. Only the model that made it knows its tensors."""

    tensors: tuple[Tensor, ...]
    """Each has the batch as its first axis; zeros are the memory of a game's start."""

    def detach(self) -> State:
        """The same memory, through which no gradient flows."""
        return State(tuple(t.detach() for t in self.tensors))

    def join(self, others: Sequence[State]) -> State:
        """The memory of these games and, behind them, of others."""
        return State(tuple(torch.cat(parts) for parts in zip(self.tensors, *(o.tensors for o in others), strict=True)))

    def select(self, rows: Int[Tensor, " row"]) -> State:
        """The memory of some of the games, in the order of `rows`."""
        return State(tuple(t[rows] for t in self.tensors))

    def forget(self, rows: Bool[Tensor, " batch"]) -> State:
        """The memory with the games of `rows` back at their start."""
        return State(tuple(torch.where(rows.view(-1, *[1] * (t.dim() - 1)), 0, t) for t in self.tensors))
