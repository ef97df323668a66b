"""Batches that do not fit into a device's memory: how many samples at a time do, found by trying.

A batch may be computed in parts (`training.batch_parts`): the gradient is the same but for rounding and what dropout
draws, the memory that of the largest part. So what does not fit at once is trained all the same, and learns the same.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from math import lcm
from typing import get_args

import numpy as np
import torch
from torch import nn

from worldmodel.errors import UserError
from worldmodel.experiment.config import PartCount
from worldmodel.features.plan import Plan, Samples
from worldmodel.machine.device import describe_device
from worldmodel.machine.gpu_memory import GIB, GpuMemory
from worldmodel.machine.process import release_memory
from worldmodel.training.loop import Trainer
from worldmodel.training.loss import compute_loss

SIGNS = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What errors say that tell of full memory, besides `torch.OutOfMemoryError` and `MemoryError`."""
SPARE = 0.05
"""Share of its part of a GPU that a trial leaves free: pieces between allocations that nothing fits into."""
LOOK_AHEAD = 32
"""Batches whose parts are measured: they differ by a few samples."""

Report = Callable[[str], None]


class DeviceFullError(UserError):
    """A batch that does not fit into memory; the message says what would."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was full."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
    )


@contextmanager
def explaining_full_memory(trainer: Trainer) -> Iterator[None]:
    """While it lasts, a training that meets full memory ends with a `DeviceFullError` that says what would fit."""
    said = ""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = " ".join(str(error).split())[:200] or type(error).__name__
        traceback.clear_frames(error.__traceback__)  # they hold what filled the memory
    if said:
        release_memory()
        raise DeviceFullError(explain_full_memory(trainer, said))


@contextmanager
def explaining_full_start(device: torch.device) -> Iterator[None]:
    """Turn an out-of-memory error of a trainer under construction into a `DeviceFullError`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = " ".join(str(error).split())[:200] or type(error).__name__
        advice = _explain_others(device) or f"use {_larger_share(device)}a smaller model or a larger machine"
        raise DeviceFullError(
            f"out of memory on {_describe(device)} before the first step ({said}): {advice}"
        ) from None


def explain_full_memory(trainer: Trainer, said: str) -> str:
    """What happened, how many samples fit, and what to do; `said`: the words of the error."""
    plan, present = trainer.feed.plan, measure_pass(trainer.feed.plan, trainer.feed.parts)
    fitting, kind = find_fitting(trainer, present), f"{trainer.training.mode}s"
    head = f"out of memory on {_describe(trainer.device)} at step {trainer.step + 1} ({said}): "
    if fitting >= present:
        return (
            f"{head}a training pass of {present} {kind} fits when tried again, so it was validation, or another "
            "program on the device: set training.eval_batch_size lower, or free the device"
        )
    if others := _explain_others(trainer.device):
        return f"{head}{others}"
    if not fitting:
        larger = _larger_share(trainer.device)
        return f"{head}not even one of the {kind} fits: use {larger}a smaller model, or shorter {kind}"
    parts = next((p for p in get_args(PartCount) if measure_pass(plan, lcm(p, trainer.workers.world)) <= fitting), None)
    found = f"{head}{present} {kind} at a time do not fit, {fitting} do (tried). "
    if parts is None:
        return f"{found}Set training.batch_size to {fitting}, which learns differently, or use more workers"
    return (
        f"{found}Set training.batch_parts to {parts}, or let `worldmodel train --auto-batch` find it: the batch of "
        f"{plan.batch_size} stays, and what is learned{_propose_share(trainer.device, present / fitting)}"
    )


def choose_parts(trainer: Trainer, workers: int, report: Report) -> int:
    """The fewest parts of a batch whose passes fit, found by real steps of a trainer that is of no further use.

    Raises:
        DeviceFullError: not even the smallest parts fit.
    """
    plan, kind = trainer.feed.plan, f"{trainer.training.mode}s"
    tried: list[int] = []
    for parts in get_args(PartCount):
        size = measure_pass(plan, lcm(parts, workers))
        if size in tried:
            continue
        if fits(trainer, size, spare=SPARE):
            told = f", {', '.join(map(str, tried))} at a time did not" if tried else ""
            report(
                f"--auto-batch: training.batch_parts {parts}: up to {size} of a batch's {plan.batch_size} {kind} at a "
                f"time fit into {_describe(trainer.device)}{told}; what is learned stays the same"
            )
            return int(parts)
        tried.append(size)
    fitting = find_fitting(trainer, tried[-1])
    smaller = f"use {_larger_share(trainer.device)}a smaller model"
    advice = f"training.batch_size {fitting} (which learns differently) fits" if fitting else smaller
    raise DeviceFullError(
        f"--auto-batch: even the smallest parts of a batch of {plan.batch_size} {kind}, {tried[-1]} at a time, do not "
        f"fit into {_describe(trainer.device)}: {_explain_others(trainer.device) or advice}"
    )


def measure_pass(plan: Plan, parts: int) -> int:
    """Samples that are computed at once, at most, where batches are cut into so many parts."""
    steps = range(min(LOOK_AHEAD, plan.steps_per_epoch))
    return max(len(plan.batch(step, part, parts)) for step in steps for part in range(parts))


def find_fitting(trainer: Trainer, size: int) -> int:
    """The largest of `size`, half of it, a quarter ... samples that can be computed at once; 0: none."""
    while size and not fits(trainer, size):
        size //= 2
    return size


def fits(trainer: Trainer, size: int, *, spare: float = 0.0) -> bool:
    """Whether a real pass over so many samples, and the optimizer's step behind it, have room.

    `spare`: share of what the process may take of a GPU that must stay free besides. The trainer is of no further use.
    """
    _release(trainer)
    try:
        ballast = _take_ballast(trainer.device, spare)
        if trainer.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(trainer.device)
        for _ in range(2):  # the second has the first one's gradients and, after a step, moments beside it
            _compute_pass(trainer, size)
            trainer.optimizer.step()
        del ballast
        found = True
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
        found = False
    _release(trainer)
    return found


def _compute_pass(trainer: Trainer, size: int) -> None:
    """Forward and backward of the first samples of the data, repeated where there are too few."""
    feed, worker, training = trainer.feed, trainer.feed.worker, trainer.training
    trainer.model.train()  # a validation that failed has left it otherwise
    first = next(found for step in count() if len(found := feed.plan.batch(step, worker.rank, worker.world)))
    rows = np.arange(size) % len(first)
    inputs, targets = feed.view.view(feed.store, Samples(first.games[rows], first.starts[rows]), feed.shape)
    with torch.autocast(trainer.device.type, torch.bfloat16, enabled=training.amp):
        predictions, _ = trainer.model(inputs, wants_state=False)
    weights, beta = trainer.config.loss_weights, training.smooth_l1_beta
    loss, _ = compute_loss(predictions, targets, weights, smooth_l1_beta=beta)
    loss.backward()  # type: ignore[no-untyped-call]
    loss.item()  # waits for the device: an error comes here at the latest


def _take_ballast(device: torch.device, share: float) -> torch.Tensor | None:
    if device.type != "cuda" or not share:
        return None
    return torch.empty(int(share * GpuMemory.measure(device).limit), dtype=torch.uint8, device=device)


def _release(trainer: Trainer) -> None:
    """Let go of what a pass has left behind."""
    trainer.optimizer.zero_grad(set_to_none=True)
    if trainer.device.type == "cuda":
        torch.cuda.empty_cache()


def check_model_fits(model: nn.Module, device: torch.device) -> None:
    """DeviceFullError if weights, gradients and AdamW's moments exceed what this process may take of a GPU."""
    if device.type != "cuda":
        return
    memory, needed = GpuMemory.measure(device), 4 * sum(p.numel() * p.element_size() for p in model.parameters())
    if needed <= memory.room:
        return
    share = memory.propose_share(memory.own + needed) if memory.is_shared else ""
    larger = f"a share of at least {share} (`tune/grid.py --gpus-per-trial`), " if share else ""
    raise DeviceFullError(
        f"the model, its gradients and the optimizer take {needed / GIB:.1f} GiB, of {memory.describe()} are left "
        f"{memory.room / GIB:.1f} GiB: {memory.explain_others() or f'use {larger}a smaller model or a larger GPU'}"
    )


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return GpuMemory.measure(device).describe()
    return f"the CPU ({describe_device(device)['memory_bytes'] / GIB:.0f} GiB)"


def _explain_others(device: torch.device) -> str:
    return GpuMemory.measure(device).explain_others() if device.type == "cuda" else ""


def _larger_share(device: torch.device) -> str:
    is_shared = device.type == "cuda" and GpuMemory.measure(device).is_shared
    return "a larger share of the GPU (`tune/grid.py --gpus-per-trial`), " if is_shared else ""


def _propose_share(device: torch.device, times: float) -> str:
    """End of a sentence: the share that a pass needs which is `times` as large as the last one that was tried."""
    if device.type != "cuda" or not (memory := GpuMemory.measure(device)).is_shared:
        return ""
    held, peak = torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    share = memory.propose_share(held + int(times * (peak - held)))
    return f"; or give it a share of about {share} (`tune/grid.py --gpus-per-trial`)" if share else ""
