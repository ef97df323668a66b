"""What the host tells the device of a step: one row of whole numbers, whatever the step does.

On a GPU nothing else reaches a step. So a step is a function of its packet, and a captured one needs no more than the
next packet in the memory where it reads its first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldmodel.features.spots import Spots, Traits, copying_stream

STEP, RATE, HEAD = 0, 1, 2
"""Places of the step and of the learning rate (as a float64's bits); numbers before the denominators."""
COLUMNS = len(Spots._fields) + len(Traits._fields)


class Part(NamedTuple):
    """The samples of a part of a batch."""

    spots: Spots
    traits: Traits


@dataclass(frozen=True)
class PacketForm:
    """How a packet's numbers are laid out: the head, each part's table of `COLUMNS` rows."""

    terms: int
    """Terms of the loss."""
    sizes: tuple[int, ...]
    """Samples of each part."""

    @property
    def length(self) -> int:
        """Numbers of a packet."""
        return HEAD + -(-self.terms // 2) + COLUMNS * sum(self.sizes)

    def write(self, step: int, rate: float, denominators: np.ndarray, tables: Sequence[np.ndarray]) -> np.ndarray:
        """A packet's numbers; `tables`: each part's `Spots` and `Traits` (6, B)."""
        numbers = np.zeros(self.length, dtype=np.int64)
        numbers[STEP] = step
        numbers[RATE : RATE + 1].view(np.float64)[:] = rate
        numbers[HEAD:].view(np.float32)[: self.terms] = denominators
        for place, table in zip(self._places(), tables, strict=True):
            numbers[place] = table.ravel()
        return numbers

    def step(self, numbers: Tensor) -> Tensor:
        """The step, from 0."""
        return numbers[STEP]

    def rate(self, numbers: Tensor) -> Tensor:
        """The learning rate, float64."""
        return numbers[RATE : RATE + 1].view(torch.float64)[0]

    def denominators(self, numbers: Tensor) -> Tensor:
        """(term,) float32, see `compute_loss`."""
        return numbers[HEAD:].view(torch.float32)[: self.terms]

    def parts(self, numbers: Tensor) -> list[Part]:
        """Each part's samples."""
        tables = [numbers[place].view(COLUMNS, -1).unbind() for place in self._places()]
        count = len(Spots._fields)
        return [Part(Spots(*rows[:count]), Traits(*rows[count:])) for rows in tables]

    def _places(self) -> list[slice]:
        ends = HEAD + -(-self.terms // 2) + COLUMNS * np.cumsum([0, *self.sizes])
        return [slice(first, last) for first, last in pairwise(ends.tolist())]


@dataclass(frozen=True, kw_only=True)
class Packet:
    """A step, as the host knows it, and its numbers."""

    form: PacketForm
    numbers: Tensor
    length: int
    """Frames that the model makes alone; 0: an ordinary step."""
    targets: int
    """Target frames of the whole batch, over all workers and parts."""
    ready: torch.cuda.Event | None = None
    """When the numbers are on the device; None: now."""

    def send(self, device: torch.device) -> Packet:
        """The packet on its way to a device; a GPU copies it beside what it computes."""
        if device.type != "cuda":
            return self
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(copying_stream(device, "packets")):
            numbers = self.numbers.pin_memory().to(device, non_blocking=True)
            ready.record()
        return replace(self, numbers=numbers, ready=ready)

    def arrive(self) -> Packet:
        """The packet, whose numbers what is launched from now on may read."""
        if self.ready is not None:
            stream = torch.cuda.current_stream(self.numbers.device)
            stream.wait_event(self.ready)
            self.numbers.record_stream(stream)
        return replace(self, ready=None)
