"""Steps as CUDA graphs: what a step launches is recorded once, and from then on launched as a whole.

A graph reads and writes the memory that its capture saw. So a packet's numbers are copied to where the captured step
reads them, and all that outlives a step is made before its capture, by the first steps, which are run as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from worldmodel.training.packet import Packet, PacketForm

WARM_UP = 3
"""Steps of each kind before it is captured: kernels are compiled, the optimizer's state and caches are made."""

Body = Callable[[], None]
Seed = Callable[[int], None]
"""Makes what a part of a batch draws (dropout) a function of its step and number."""
Compute = Callable[[Packet, bool, Seed], None]
"""A step of a packet, with metrics or without."""
Kind = tuple[PacketForm, int, bool]
"""Form of the packet, frames that the model makes alone, whether metrics are taken."""


@runtime_checkable
class Graphs(Protocol):
    """What captures."""

    def warm_up(self, body: Body) -> None:
        """Run a step that will be captured later."""

    def capture(self, body: Body) -> Body:
        """What does from now on what `body` does, which has not been done yet."""


class CudaGraphs:
    """CUDA graphs that share their memory: they run one after another, and nothing in it outlives a step."""

    def __init__(self) -> None:
        self._pool: Any = None

    def warm_up(self, body: Body) -> None:
        """Run beside the current stream, as a capture does, which memory is then kept for."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            body()
        torch.cuda.current_stream().wait_stream(stream)

    def capture(self, body: Body) -> Body:
        """The graph of a step. Other threads may go on copying blocks."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            body()
        self._pool = self._pool or graph.pool()
        return graph.replay


class StepRunner:
    """Runs steps: as they are, or as graphs; one that cannot be captured goes on as it is."""

    def __init__(self, compute: Compute, graphs: Graphs | None, on_failure: Callable[[str], None]) -> None:
        """`compute`: see `Learner.compute`; `on_failure`: told once for each kind of step that cannot be captured."""
        self._compute, self._graphs, self._on_failure = compute, graphs, on_failure
        self._numbers: dict[PacketForm, Tensor] = {}
        """Where captured steps read their packets."""
        self._done: Counter[Kind] = Counter()
        self._replays: dict[Kind, Body] = {}
        self._failed: set[Kind] = set()

    def run(self, packet: Packet, takes_metrics: bool, seed: Seed) -> None:
        """Run one step; `seed`: prepares what a part of its batch draws."""
        kind = (packet.form, packet.length, takes_metrics and not packet.length)
        if self._graphs is None or kind in self._failed:
            self._compute(packet, takes_metrics, seed)
        elif self._done[kind] < WARM_UP:
            self._graphs.warm_up(lambda: self._compute(packet, takes_metrics, seed))
            self._done[kind] += 1
        else:
            self._replay(self._graphs, kind, packet, seed)

    def _replay(self, graphs: Graphs, kind: Kind, packet: Packet, seed: Seed) -> None:
        if packet.form not in self._numbers:
            self._numbers[packet.form] = torch.empty_like(packet.numbers)
        numbers = self._numbers[packet.form].copy_(packet.numbers)
        seed(0)
        if kind not in self._replays:
            try:
                self._replays[kind] = graphs.capture(self._bind(replace(packet, numbers=numbers), kind[2]))
            except Exception as error:  # noqa: BLE001  (whatever a driver raises: training goes on without it)
                self._give_up(kind, error)
                self._compute(packet, kind[2], seed)
                return
        self._replays[kind]()

    def _bind(self, packet: Packet, takes_metrics: bool) -> Body:
        return lambda: self._compute(packet, takes_metrics, lambda part: None)

    def _give_up(self, kind: Kind, error: Exception) -> None:
        self._failed.add(kind)
        which = "self-forcing steps" if kind[1] else "steps with metrics" if kind[2] else "steps"
        said = next(iter(str(error).splitlines()), "")
        self._on_failure(
            f"{which} cannot be captured as a CUDA graph and run without one, which is slower "
            f"({type(error).__name__}: {said}); with training.compile 'off' none is tried"
        )
