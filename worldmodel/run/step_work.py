"""The work of a training step, counted on fake tensors: floating-point operations, memory traffic and kernels.

A fake tensor has a shape and no data, so a batch of any size is counted in a second and without a GPU. Forward pass,
loss and backward pass run as on a CPU, in plain torch. Each matrix product is a kernel that reads its inputs and writes
its output. The operations between two products count as one fused chain: it reads what was made outside of it and
writes what is read after it. Each reduction in a chain is one more kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from worldmodel.encoding import FeatureLayout
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.features.batch import Inputs, Targets
from worldmodel.features.plan import SampleShape
from worldmodel.model.build import build_model
from worldmodel.schema import PLAYERS
from worldmodel.training.feed import sample_shape
from worldmodel.training.loss import compute_loss

COUNTED_SAMPLES = 2
"""Samples whose operations are counted; every sample has as many."""
UPDATE_BYTES = 40
"""Memory traffic of clipping and AdamW for each parameter: seven float32 read, three written."""
VIEW_KERNELS = 40
"""Kernels that gather and decode the frames of one part of a batch."""
PRODUCTS = frozenset({"mm", "bmm", "addmm", "baddbmm", "embedding_dense_backward"})
"""Operations that no chain takes in."""
REDUCTIONS = frozenset({
    "sum", "mean", "linalg_vector_norm", "cumsum", "_log_softmax", "_log_softmax_backward_data", "nll_loss_forward",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StepWork:
    """The work of one training step."""

    targets: int
    operations: float
    """Floating-point operations of matrix products, forward and backward."""
    memory_bytes: int
    """Memory traffic."""
    products: int
    """Kernels that are matrix products."""
    chains: int
    """Kernels of fused chains."""


@dataclass(frozen=True)
class Operation:
    """One operation that touches memory."""

    name: str
    reads: Mapping[int, int]
    """Storage to bytes."""
    writes: Mapping[int, int]

    @property
    def is_product(self) -> bool:
        """True if no chain takes it in."""
        return self.name in PRODUCTS


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps the operations that touch memory."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self._made: list[Tensor] = []  # a storage that is freed would give its number to another

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        reads, writes = _measure((args, kwargs)), _measure(out)
        self._made += [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        is_view = writes.keys() <= reads.keys() and not func._schema.is_mutable
        if writes and not is_view:
            self.operations.append(Operation(func._schema.name.removeprefix("aten::"), reads, writes))
        return out


def count_operations(config: ExperimentConfig) -> float:
    """Floating-point operations of a training step for each target."""
    shape = sample_shape(config)
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        _run_pass(config, *_make_batch(config.encoding.layout, shape, COUNTED_SAMPLES))
    return float(counter.get_total_flops()) / (COUNTED_SAMPLES * shape.positions)


def count_step(config: ExperimentConfig) -> StepWork:
    """The work of a full training step, all parts of its batch together."""
    parts, shape, recorder = config.training.batch_parts, sample_shape(config), Recorder()
    samples = max(1, config.training.batch_size // parts)
    with FakeTensorMode():
        batch = _make_batch(config.encoding.layout, shape, samples)
        with FlopCounterMode(display=False) as counter, recorder:
            parameters = _run_pass(config, *batch)
        view_bytes = sum(_measure([vars(side) for side in batch]).values())
    chains, memory_bytes = count_kernels(recorder.operations)
    return StepWork(
        targets=parts * samples * shape.positions,
        operations=parts * float(counter.get_total_flops()),
        memory_bytes=parts * (memory_bytes + view_bytes) + UPDATE_BYTES * parameters,
        products=parts * sum(operation.is_product for operation in recorder.operations),
        chains=parts * (chains + VIEW_KERNELS),
    )


def _make_batch(layout: FeatureLayout, shape: SampleShape, samples: int) -> tuple[Inputs, Targets]:
    """Zeros in the shape of a batch."""

    def make(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(samples, *size, dtype=dtype)

    def make_labels() -> Tensor:
        return make(shape.positions, PLAYERS, dtype=torch.int64)

    widths = {term: layout.number_width(term) for term in layout.number_targets}
    inputs = Inputs(
        floats=make(shape.inputs, layout.float_width),
        classes=make(shape.inputs, layout.class_width, dtype=torch.int64),
        controls=make(shape.positions, layout.control_width),
    )
    return inputs, Targets(
        numbers={term: make(shape.positions, PLAYERS, width) for term, width in widths.items()},
        classes={term: make_labels() for term in layout.class_targets},
        context_action=make_labels(),
        previous_action=make_labels(),
        valid=make(shape.positions, dtype=torch.bool),
        present={t: make(PLAYERS, width) for t, width in {**widths, **dict.fromkeys(layout.class_targets, 1)}.items()},
    )


def _run_pass(config: ExperimentConfig, inputs: Inputs, targets: Targets) -> int:
    """Forward, loss and backward on fake tensors; returns the number of parameters."""
    model = build_model(replace(config.model, backend="torch"), config.encoding.layout)
    with torch.autocast("cpu", torch.bfloat16, enabled=config.training.amp):
        predictions, _ = model(inputs, wants_state=False)
    loss, _ = compute_loss(predictions, targets, config.loss_weights, smooth_l1_beta=config.training.smooth_l1_beta)
    loss.backward()  # type: ignore[no-untyped-call]
    return sum(parameter.numel() for parameter in model.parameters())


def count_kernels(operations: Iterable[Operation]) -> tuple[int, int]:
    """Kernels of chains, and the memory traffic of chains and products."""
    groups = [(is_product, list(group)) for is_product, group in groupby(operations, lambda o: o.is_product)]
    last_read = {storage: place for place, (_, group) in enumerate(groups) for o in group for storage in o.reads}
    chains = traffic = 0
    for place, (is_product, group) in enumerate(groups):
        if is_product:
            traffic += sum(sum(o.reads.values()) + sum(o.writes.values()) for o in group)
            continue
        chains += 1 + sum(o.name in REDUCTIONS for o in group)
        reads: dict[int, int] = {}
        writes: dict[int, int] = {}
        for o in group:
            reads |= {s: max(size, reads.get(s, 0)) for s, size in o.reads.items() if s not in writes}
            writes |= {s: max(size, writes.get(s, 0)) for s, size in o.writes.items()}
        traffic += sum(reads.values()) + sum(size for s, size in writes.items() if last_read.get(s, -1) > place)
    return chains, traffic


def _measure(tree: Any) -> dict[int, int]:
    """The storages of all tensors of a tree, and the bytes of each that are touched."""
    found: dict[int, int] = {}
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor):
            storage = leaf.untyped_storage()
            size = min(leaf.numel() * leaf.element_size(), storage.nbytes())
            found[storage._cdata] = max(size, found.get(storage._cdata, 0))
    return found
