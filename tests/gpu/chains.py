"""Counts of `@fused` chains: what inductor would generate for an A100, without generating programs.

A chain is traced as torch.compile does: AOTAutograd makes a forward and a backward graph, inductor lowers each to
Triton kernels and matrix products. Nothing runs: a call returns empty tensors of the right shapes and adds the graph's
counts to the recorder. The traffic of a graph is what goes in and what comes out, each once.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
import torch.utils._triton
from torch import Tensor
from torch._functorch.aot_autograd import aot_function
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor import config, metrics, scheduler
from torch._inductor.compile_fx import (
    _recursive_joint_graph_passes,
    _recursive_post_grad_passes,
    fake_tensor_prop,
)
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes.post_grad import view_to_reshape
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch.utils._pytree import tree_flatten, tree_unflatten

from tests.gpu.recorder import PRODUCTS, Recorder, count_flops

if find_spec("triton") is None:  # inductor writes Triton programs without it, once it believes that it is there
    scheduler.has_triton = lambda: True
    torch.utils._triton.triton_hash_with_backend = lambda: ""


@dataclass(frozen=True)
class Cost:
    """What one graph costs each time it runs."""

    kernels: int
    """Triton kernels."""
    products: tuple[str, ...]
    """Kernels of others, such as matrix products."""
    bytes: int
    """Of what goes in and what comes out."""
    kernel_bytes: int
    """What the kernels read and write, buffers between them included."""
    flops: int
    source: str
    """The generated program."""


class ChainCompiler:
    """Takes the place of `fused.compile_chain`."""

    def __init__(self, recorder: Recorder, lowers: bool = True) -> None:
        self.recorder, self.lowers = recorder, lowers
        self.costs: list[tuple[str, Cost]] = []
        """Of each graph: the chain's name and which of its graphs it is, and the cost."""

    def compile_chain(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A form of `function` that counts. One trace serves all calls of the same shapes, types and constants."""
        if not self.lowers:
            return function
        traced: dict[Any, Callable[..., Any]] = {}

        def run(*args: Any, **options: Any) -> Any:
            leaves, spec = tree_flatten((args, options))
            tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
            key = (spec, tuple(map(_describe, leaves)), _same_tensors(tensors), *_autocast())
            if key in traced:
                return traced[key](*tensors)
            constants = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
            traced[key] = self._trace(function, constants, places, spec)
            with self.recorder.paused():  # the first call traces
                return traced[key](*tensors)

        return run

    def _trace(self, function: Callable[..., Any], constants: list[Any], places: list[int], spec: Any) -> Any:
        def on_tensors(*tensors: Tensor) -> Any:
            leaves = list(constants)
            for place, tensor in zip(places, tensors, strict=True):
                leaves[place] = tensor
            args, options = tree_unflatten(leaves, spec)
            return function(*args, **options)

        name = getattr(function, "__qualname__", str(function))
        return aot_function(
            on_tensors,
            fw_compiler=lambda graph, inputs: self._lower(f"{name} forward", graph, inputs),
            bw_compiler=lambda graph, inputs: self._lower(f"{name} backward", graph, inputs),
            partition_fn=_partition,
            decompositions=select_decomp_table(),
        )

    def _lower(self, name: str, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        outputs = [_plan_output(graph, node) for node in _outputs(graph)]
        with self.recorder.paused():
            cost = lower(graph, inputs)
        self.costs.append((name, cost))

        def run(args: list[Any]) -> list[Any]:
            given = list(args)
            args.clear()
            self._add(cost)
            with self.recorder.paused():
                return [make(given) for make in outputs]

        run._boxed_call = True  # type: ignore[attr-defined]
        return run

    def _add(self, cost: Cost) -> None:
        recorder = self.recorder
        recorder.fused += cost.kernels
        recorder.graphs += 1
        recorder.kernel_bytes += cost.kernel_bytes - cost.bytes
        recorder.ops[recorder.phase].update(cost.products)
        recorder.bytes[recorder.phase] += cost.bytes
        recorder.flops[recorder.phase] += cost.flops
        recorder.sequence.append(f"graph of {cost.kernels} kernels, {cost.products}")


def lower(graph: torch.fx.GraphModule, inputs: list[Any]) -> Cost:
    """What inductor makes of a graph."""
    mode = torch._guards.detect_fake_mode(inputs)
    view_to_reshape(graph)
    with V.set_fake_mode(mode), V.set_debug_handler(DebugContext()):
        fake_tensor_prop(graph, inputs)
        _recursive_post_grad_passes(graph, False)
        lowering = GraphLowering(graph, example_inputs=inputs, shape_env=mode.shape_env)
        with V.set_graph_handler(lowering), V.set_extern_kernel_nodes([]):
            metrics.reset()
            lowering.run(*inputs)
            code = lowering.codegen()[0]
            kernel_bytes = int(lowering.count_bytes()[0])
    source = code.value if hasattr(code, "value") else str(code)
    body = source.rpartition("def call(")[2]
    products = re.findall(r"extern_kernels\.(\w+)\(|torch\.ops\.aten\.(\w+)", body)
    made = [n for n in _outputs(graph) if isinstance(n, torch.fx.Node) and n.op != "placeholder"]
    ends = [*inputs, *(node.meta["val"] for node in made)]
    return Cost(
        kernels=len(re.findall(r"^\s*\w+\.run\(", body, re.MULTILINE)),
        products=tuple(a or b for a, b in products),
        bytes=sum(_count_distinct(t) for t in ends if isinstance(t, Tensor) and t.device.type == "cuda"),
        kernel_bytes=kernel_bytes,
        flops=sum(_count_flops(node) for node in graph.graph.nodes),
        source=source,
    )


def _outputs(graph: torch.fx.GraphModule) -> Any:
    return next(iter(graph.graph.find_nodes(op="output"))).args[0]


def _partition(joint: torch.fx.GraphModule, inputs: Any, **options: Any) -> Any:
    mode = torch._guards.detect_fake_mode(inputs)
    with config.patch(joint_graph_constant_folding=False), V.set_fake_mode(mode):  # it computes constants on the GPU
        _recursive_joint_graph_passes(joint)
    return min_cut_rematerialization_partition(joint, inputs, **options, compiler="inductor")


def _plan_output(graph: torch.fx.GraphModule, node: Any) -> Callable[[list[Any]], Any]:
    """How to make an output of a graph from its inputs, without running it."""
    if not isinstance(node, torch.fx.Node):
        return lambda given: node
    inputs = list(graph.graph.find_nodes(op="placeholder"))
    if node in inputs:
        place = inputs.index(node)
        return lambda given: given[place]
    value = node.meta["val"]
    if not isinstance(value, Tensor):
        return lambda given: value
    size, stride, kind, device = tuple(value.shape), value.stride(), value.dtype, value.device
    return lambda given: torch.empty_strided(size, stride, dtype=kind, device=device)


def _count_flops(node: torch.fx.Node) -> int:
    name = node.target.name().split("::")[1].split(".")[0] if hasattr(node.target, "name") else ""
    if node.op != "call_function" or name not in PRODUCTS:
        return 0
    left, right = PRODUCTS[name]
    return count_flops(node.args[left].meta["val"], node.args[right].meta["val"])  # type: ignore[union-attr,index]


def _count_distinct(tensor: Tensor) -> int:
    """Bytes of a tensor, an expanded axis counting once."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return int(count * tensor.element_size())


def _describe(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape), leaf.stride(), leaf.dtype, leaf.device, leaf.requires_grad
    return leaf


def _same_tensors(tensors: list[Tensor]) -> tuple[int, ...]:
    """Which of the tensors are the same object."""
    first: dict[int, int] = {}
    return tuple(first.setdefault(id(tensor), place) for place, tensor in enumerate(tensors))


def _autocast() -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")


@contextlib.contextmanager
def counting(recorder: Recorder, *, lowers: bool = True) -> Any:
    """Count chains instead of compiling them; gives the compiler. Without `lowers` they run as written."""
    from worldmodel.machine import fused

    compiler, before = ChainCompiler(recorder, lowers), fused.compile_chain
    fused.compile_chain = compiler.compile_chain  # type: ignore[assignment]
    fused._compiled.clear()
    try:
        yield compiler
    finally:
        fused.compile_chain = before
        fused._compiled.clear()
