"""Where a batch's samples lie and what they are, as whole numbers: all that the host tells a device of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor


class Spots(NamedTuple):
    """Rows of a matrix of frames, one piece per sample."""

    first: Int64[Tensor, " batch"]
    last: Int64[Tensor, " batch"]
    """Last row of the sample's game: beyond it that one is repeated."""
    items: Int64[Tensor, " batch"]
    """Where the items of the sample's block begin."""


class Traits(NamedTuple):
    """What a sample is, wherever its frames lie."""

    games: Int64[Tensor, " batch"]
    left: Int64[Tensor, " batch"]
    """Frames from its first one to its game's end; 0: nothing of it counts."""
    swapped: Int64[Tensor, " batch"]
    """1 where its players are seen in each other's place."""


def send(values: np.ndarray, device: torch.device) -> Tensor:
    """Numbers on a device. A GPU copies them when it comes to it; the host goes on."""
    tensor = torch.from_numpy(values)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@cache
def copying_stream(device: torch.device, what: str) -> torch.cuda.Stream:
    """Where a GPU copies something (packets, blocks) beside what it computes."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextmanager
def copying(device: torch.device) -> Iterator[None]:
    """While blocks are copied to a device: behind all that was launched so far, which may read what they replace, and
    beside all that comes after. They are there when it ends."""
    if device.type != "cuda":
        yield
        return
    stream = copying_stream(device, "blocks")
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()


def swap_players(values: Tensor, swapped: Int[Tensor, " batch"], axis: int) -> Tensor:
    """`values` with the players, along `axis`, of some samples in each other's place."""
    chosen = swapped.view(-1, *[1] * (values.dim() - 1)) > 0
    return torch.where(chosen, values.flip(axis), values)
