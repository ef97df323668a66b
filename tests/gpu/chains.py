"""Counts of `@fused` chains: what inductor would generate for an A100, without generating programs.

A chain is traced as torch.compile does: AOTAutograd makes a forward and a backward graph, inductor lowers each to
Triton kernels and matrix products. Nothing runs: a call returns empty tensors of the right shapes and adds the graph's
counts to the recorder. The traffic of a graph is what each of its kernels and products reads and writes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any
from unittest import mock

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

from tests.gpu.arguments import Rebuild, take_apart
from tests.gpu.recorder import PRODUCTS, Recorder, count_flops
from worldmodel.machine import fused

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
    """What kernels and products read and write, buffers between them included."""
    ends: int
    """Bytes of what goes into the graph and what comes out: its traffic if it were one kernel."""
    flops: int
    source: str
    """The generated program."""


class ChainCompiler:
    """Takes the place of `fused.compile_chain`; keeps the traces of a process."""

    def __init__(self) -> None:
        self.recorder, self.lowers, self.is_tracing = Recorder(), True, False
        self._traced: dict[Any, Callable[..., Any]] = {}

    def compile_chain(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A form of `function` that counts. One trace serves all calls of the same shapes, types and constants."""

        def run(*args: Any, **options: Any) -> Any:
            if self.is_tracing or not self.lowers:
                return function(*args, **options)
            tensors: list[Tensor] = []
            key: list[Any] = [function, torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")]
            rebuild = take_apart((args, options), tensors, key)
            known = tuple(key)
            if known in self._traced:
                return self._traced[known](*tensors)
            self._traced[known] = self._trace(function, rebuild)
            with self._tracing():  # the first call traces
                return self._traced[known](*tensors)

        return run

    @contextlib.contextmanager
    def _tracing(self) -> Iterator[None]:
        self.is_tracing = True
        try:
            with self.recorder.paused():
                yield
        finally:
            self.is_tracing = False

    def _trace(self, function: Callable[..., Any], rebuild: Rebuild) -> Callable[..., Any]:
        def on_tensors(*tensors: Tensor) -> Any:
            with contextlib.ExitStack() as stack:
                args, options = rebuild(tensors, stack)
                return function(*args, **options)

        name = f"{function.__module__}.{function.__qualname__}"
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

        def run(args: list[Any]) -> list[Any]:
            given = list(args)
            args.clear()
            self._add(name, cost)
            with self.recorder.paused():
                return [make(given) for make in outputs]

        run._boxed_call = True  # type: ignore[attr-defined]
        return run

    def _add(self, name: str, cost: Cost) -> None:
        recorder = self.recorder
        recorder.chains.setdefault(name, []).append(cost)
        recorder.ops[recorder.phase].update(cost.products)
        recorder.bytes[recorder.phase] += cost.bytes
        recorder.flops[recorder.phase] += cost.flops
        recorder.sequence.append(f"graph of {cost.kernels} kernels, {cost.products}")


def lower(graph: torch.fx.GraphModule, inputs: list[Any]) -> Cost:
    """What inductor makes of a graph."""
    mode = torch._guards.detect_fake_mode(inputs)
    view_to_reshape(graph)
    with config.patch(fused.OPTIONS), V.set_fake_mode(mode), V.set_debug_handler(DebugContext()):
        fake_tensor_prop(graph, inputs)
        _recursive_post_grad_passes(graph, False)
        lowering = GraphLowering(graph, example_inputs=inputs, shape_env=mode.shape_env)
        with V.set_graph_handler(lowering), V.set_extern_kernel_nodes([]):
            metrics.reset()
            lowering.run(*inputs)
            code = lowering.codegen()[0]
            traffic = int(lowering.count_bytes()[0])
    source = code.value if hasattr(code, "value") else str(code)
    body = source.rpartition("def call(")[2]
    products = re.findall(r"extern_kernels\.(\w+)\(|torch\.ops\.aten\.(\w+)", body)
    made = [n for n in _outputs(graph) if isinstance(n, torch.fx.Node) and n.op != "placeholder"]
    read = [node for node in graph.graph.find_nodes(op="placeholder") if any(u.op != "output" for u in node.users)]
    ends = [node.meta["val"] for node in dict.fromkeys([*read, *made])]
    return Cost(
        kernels=len(re.findall(r"^\s*\w+\.run\(", body, re.MULTILINE)),
        products=tuple(a or b for a, b in products),
        bytes=traffic,
        ends=sum(_count_distinct(t) for t in ends if isinstance(t, Tensor) and t.device.type == "cuda"),
        flops=sum(_count_flops(node) for node in graph.graph.nodes),
        source=source,
    )


def _outputs(graph: torch.fx.GraphModule) -> Any:
    return next(iter(graph.graph.find_nodes(op="output"))).args[0]


def _partition(joint: torch.fx.GraphModule, inputs: Any, **options: Any) -> Any:
    mode = torch._guards.detect_fake_mode(inputs)
    on_gpu = {"joint_graph_constant_folding": False, "shape_padding": False}  # they compute or measure on the GPU
    with config.patch({**fused.OPTIONS, **on_gpu}), V.set_fake_mode(mode):
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


COMPILER = ChainCompiler()


@contextlib.contextmanager
def counting(recorder: Recorder, *, lowers: bool = True) -> Iterator[None]:
    """Count chains instead of compiling them. Without `lowers` they run as written. Chains that fail raise."""
    COMPILER.recorder, COMPILER.lowers = recorder, lowers
    fused._compiled.clear()
    with (
        mock.patch.object(fused, "compile_chain", COMPILER.compile_chain),
        mock.patch.object(fused, "give_up", _raise),
    ):
        yield
    fused._compiled.clear()


def _raise(error: Exception) -> None:
    raise error
