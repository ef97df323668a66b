"""What several workers do together; alone, all of it is free."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Workers:
    """This worker among all that train one model."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this worker writes the run folder."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model, its gradients averaged over the workers."""
        if self.world == 1:
            return model
        ids = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)

    def delay(self, model: nn.Module, *, is_last: bool) -> AbstractContextManager[None]:
        """While it lasts, gradients add up here; behind the last part of a batch they are averaged over workers."""
        if is_last or not isinstance(model, nn.parallel.DistributedDataParallel):
            return nullcontext()
        found: AbstractContextManager[None] = model.no_sync()
        return found

    def sum(self, values: Tensor) -> Tensor:
        """Sum over workers."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """Mean over workers."""
        return self.sum(values) / self.world

    def least(self, values: Tensor) -> list[int]:
        """The smallest of the workers' whole numbers, place by place."""
        if self.world > 1:
            dist.all_reduce(values, op=dist.ReduceOp.MIN)
        return [int(value) for value in values.tolist()]

    def find_peak(self, value: Tensor, step: Tensor) -> tuple[float, int]:
        """The largest of the workers' values, and the step in which it was."""
        if self.world == 1:
            return float(value), int(step)
        largest = value.clone()
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        steps = torch.where(value == largest, step, torch.full_like(step, 2**62))
        return float(largest), self.least(steps.reshape(1))[0]

    def decide(self, mine: bool) -> bool:
        """Worker 0's answer, for all."""
        return bool(self.share(int(mine)))

    def share(self, mine: int) -> int:
        """Worker 0's number, for all."""
        if self.world == 1:
            return mine
        told = torch.tensor([mine], device=self.device)
        dist.broadcast(told, src=0)
        return int(told.item())

    def gather(self, text: str) -> list[str]:
        """Every worker's text (its first 256 bytes), by rank."""
        if self.world == 1:
            return [text]
        rows = torch.zeros(self.world, 256, dtype=torch.int64, device=self.device)
        content = text.encode()[:256]
        rows[self.rank, : len(content)] = torch.tensor(list(content), dtype=torch.int64, device=self.device)
        return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in self.sum(rows).tolist()]

    def are_same(self, mine: int) -> bool:
        """Whether all workers have worker 0's number; every worker learns it."""
        return self.least(torch.tensor([int(self.share(mine) == mine)], device=self.device)) == [1]

    def agree(self, reason: str | None) -> str | None:
        """Worker 0's reason to stop, for all (the others learn only that there is one)."""
        if not self.decide(reason is not None):
            return None
        return reason or "worker 0 was asked to stop"
