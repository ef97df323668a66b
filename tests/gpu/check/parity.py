"""The model's kernels and compiled chains against plain torch on the CPU: outputs, states, gradients."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from math import prod
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.gpu.check.report import Report, Row
from tests.gpu.check.toys import configure, differ, judge, list_backends, time_calls
from tests.model.golden import random_batch
from worldmodel.machine import fused
from worldmodel.model import kernels, mamba2, scan
from worldmodel.model.build import build_model
from worldmodel.model.config import ModelConfig
from worldmodel.model.mamba2 import Mamba2, Mamba2Layer
from worldmodel.training.loss import compute_loss

FRAMES = (64, 256, 75, 10)
"""Triton compiles anew for lengths that 16 does not divide: those come last."""
TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
TOLERANCES = {"bf16": 0.1, "fp32": 0.02}
"""Largest difference, relative to the largest value: Triton multiplies in TF32, with 11 bits; bfloat16 has 8. Sums over
a batch, as of A_log's gradient, lose more; a wrong stride or state differs by about 1."""
CPU, BATCH, CHUNKS = torch.device("cpu"), 4, (32, 128, 64)
Tensors = Mapping[str, Tensor]


def compare_blocks(report: Report) -> str:
    """Convolution, scan and whole layer, by type and length, with and without a state before."""
    torch.manual_seed(0)
    config = choose_sizes(report)
    works = {"convolution": _compare_convolutions, "scan": _compare_scans, "layer": _compare_layers}
    cases = [
        {"what": what, "type": kind, "T": frames, "state": has_state}
        for what in works for kind in TYPES for frames in FRAMES for has_state in (True, False)
        if has_state or what != "convolution"
    ]  # fmt: skip
    with one_configuration():
        report.go(cases, lambda what, **labels: works[what](report, config, *labels.values()), reserve=4)
    return "largest difference, relative to the largest value, from float32 on the CPU; beside it torch's in that type"


def choose_sizes(report: Report) -> ModelConfig:
    """The default block, or a small one for a CPU."""
    return ModelConfig() if report.has_gpu else ModelConfig(d_model=64, d_state=16, headdim=32)


def _compare_scans(report: Report, config: ModelConfig, kind: str, frames: int, has_state: bool) -> Row:
    """The scan of this device and torch's, in a type; on a CPU torch's against frame after frame."""
    drawn = draw_scan(config, frames, TYPES[kind])
    start = torch.randn(BATCH, config.heads, config.headdim, config.d_state) if has_state else None
    uses_kernels = "kernels" in list_backends(report)

    def run(work: Callable[..., Any], device: torch.device, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        leaves = {n: t.to(device, dtype or t.dtype).clone().requires_grad_() for n, t in drawn.items()}
        state = None if start is None else start.to(device, copy=True).requires_grad_()
        y, final = work(scan.ScanInputs(**leaves), config.chunk_size, state, wants_state=has_state)
        ends = {"y": y} if final is None else {"y": y, "final": final}
        return ends | differentiate(ends, leaves if state is None else {**leaves, "initial": state})

    exact = run(scan.scan_chunks if report.has_gpu else _step_through, CPU, torch.float32)
    plain = run(scan.scan_chunks, CPU)
    ours = run(kernels.scan_chunks if uses_kernels else scan.scan_chunks, report.device)
    return compare(kind, ours, exact, plain, "mamba_ssm" if uses_kernels else "torch")


def _compare_layers(report: Report, config: ModelConfig, kind: str, frames: int, has_state: bool) -> Row:
    """A layer as training runs it: kernels, compiled chains, the strides of slices of a projection."""
    backend = list_backends(report)[-1]
    plain = Mamba2Layer(replace(config, backend="torch"))
    ours = Mamba2Layer(replace(config, backend=backend)).to(report.device)
    ours.load_state_dict(plain.state_dict())
    u, state = torch.randn(BATCH, frames, config.d_model), [torch.randn_like(t) for t in plain.empty_state(BATCH)]

    def run(layer: Mamba2Layer, device: torch.device, amp: bool) -> dict[str, Tensor]:
        leaves = {"u": u.to(device, copy=True).requires_grad_(), **dict(layer.named_parameters())}
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            before = tuple(t.to(device) for t in state) if has_state else None
            y, after = layer(leaves["u"], before, keep=frames, wants_state=has_state)
        ends = {"y": y, **({"tail": after[0], "final": after[1]} if after else {})}
        return ends | differentiate({"y": y}, leaves)

    exact, amp = run(plain, CPU, False), kind == "bf16"
    return compare(kind, run(ours, report.device, amp), exact, run(plain, CPU, amp), f"backend {backend}")


def _compare_convolutions(report: Report, config: ModelConfig, kind: str, frames: int, has_state: bool) -> Row:
    """The convolution of this device on whatever a block hands it."""
    block = Mamba2(replace(config, backend=list_backends(report)[-1])).to(report.device)
    seen: list[tuple[Any, ...]] = []

    def listen(name: str, work: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def convolve(*given: Tensor) -> Tensor:
            seen.append((name, work, given))
            return work(*given)

        return convolve

    with (
        mock.patch.object(kernels, "convolve", listen("causal_conv1d", kernels.convolve)),
        mock.patch.object(mamba2, "convolve", listen("torch", mamba2.convolve)),
        torch.autocast(report.device.type, torch.bfloat16, enabled=kind == "bf16"),
    ):
        block(torch.randn(BATCH, frames, config.d_model, device=report.device), None, keep=frames, wants_state=False)
    ((name, work, given),) = seen

    def run(work: Callable[..., Tensor], given: list[Tensor]) -> dict[str, Tensor]:
        leaves = {n: t.requires_grad_() for n, t in zip(("x", "weight", "bias"), given, strict=True)}
        ends = {"y": work(*leaves.values())}
        return ends | differentiate(ends, leaves)

    ours = run(work, [t.detach() for t in given])  # with their strides
    exact = run(_convolve_plainly, [t.detach().to(CPU, torch.float32, copy=True) for t in given])
    return {**compare(kind, ours, exact, ours, name), "strides": list(given[0].stride())}


def _convolve_plainly(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    y = F.conv1d(x.mT, weight.unsqueeze(1), bias, padding=weight.size(1) - 1, groups=x.size(2))
    return F.silu(y[..., : x.size(1)]).mT


def differentiate(ends: Tensors, leaves: Tensors) -> dict[str, Tensor]:
    """The gradients of a sum over outputs."""
    total = torch.stack([(end.float().sin() + end.float().square()).mean() for end in ends.values()]).sum()
    gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return {f"gradient of {n}": g for n, g in zip(leaves, gradients, strict=True) if g is not None}


def compare(kind: str, ours: Tensors, exact: Tensors, plain: Tensors, name: str) -> Row:
    """The largest difference of ours; Failed where it is neither small nor near that of plain torch in the type."""
    differences = {n: differ(ours[n], exact[n]) for n in exact}
    worst = max(differences, key=lambda n: differences[n] if differences[n] == differences[n] else float("inf"))
    beside = max(differ(plain[n], exact[n]) for n in exact)
    values = {"by": name, "difference": differences[worst], "torch's": beside, "worst": worst}
    most = max(TOLERANCES[kind], 3 * beside)
    return judge(values, differences[worst] < most, f"a difference below {most:.2g}")


def draw_scan(config: ModelConfig, frames: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """What drives a scan."""
    return {
        "x": torch.randn(BATCH, frames, config.heads, config.headdim).to(dtype),
        "dt": F.softplus(torch.randn(BATCH, frames, config.heads)),
        "a": -torch.rand(config.heads) * 4,
        "b": torch.randn(BATCH, frames, config.d_state).to(dtype),
        "c": torch.randn(BATCH, frames, config.d_state).to(dtype),
        "d": torch.randn(config.heads),
    }


def _step_through(
    inputs: scan.ScanInputs, chunk: int, state: Tensor | None, *, wants_state: bool
) -> tuple[Tensor, Tensor | None]:
    """The recurrence itself."""
    if state is None:
        state = inputs.x.new_zeros(*inputs.x[:, 0].shape, inputs.b.size(-1))
    outputs = []
    for t in range(inputs.x.size(1)):
        frame = {name: getattr(inputs, name)[:, t : t + 1] for name in ("x", "dt", "b", "c")}
        y, state = scan.step_frame(scan.ScanInputs(a=inputs.a, d=inputs.d, **frame), state)
        outputs.append(y)
    return torch.cat(outputs, 1), state if wants_state else None


@contextmanager
def one_configuration() -> Iterator[None]:
    """While it lasts, Triton compiles the smallest configuration of each kernel alone: parity is not about speed."""
    try:
        from triton.runtime.autotuner import Autotuner
    except ImportError:
        yield
        return
    begin = Autotuner.__init__

    def measure(config: Any) -> int:
        return prod(value for value in config.kwargs.values() if isinstance(value, int) and value > 0)

    def begin_small(self: Any, *args: Any, **options: Any) -> None:
        begin(self, *args, **options)
        self.configs = sorted(self.configs, key=measure)[:1]

    with mock.patch.object(Autotuner, "__init__", begin_small):
        yield


def compare_fused(report: Report) -> str:
    """A model's predictions and gradients with compiled chains, and with the same chains as written."""
    trouble = fused.explain_missing_compiler(report.device)
    report.go([{"what": "a small chain"}], lambda what: judge({}, trouble is None, f"that it compiles: {trouble}"))

    def work(what: str, type: str) -> Row:
        began = time.monotonic()
        fused.reset_fusing()
        ours = run_model(report, type, report.device)
        names = sorted(function.__name__ for function in getattr(fused, "_compiled", ()))
        seconds = round(time.monotonic() - began, 1)
        fused.reset_fusing(enabled=False)
        plain, exact = run_model(report, type, report.device), run_model(report, "fp32", CPU)
        fused.reset_fusing()
        found = compare(type, ours, exact, plain, "compiled chains" if names else "chains as written")
        return {**found, "chains": names, "compiled s": seconds}

    report.go([{"what": "whole model", "type": kind} for kind in TYPES], work, reserve=12)
    return "beside it: the same chains as written, on the same device"


def run_model(report: Report, kind: str, device: torch.device) -> dict[str, Tensor]:
    """Predictions, loss and gradients of the baseline model on arbitrary numbers."""
    config = configure(report)
    layout = config.encoding.layout
    torch.manual_seed(0)
    model = build_model(config.model, layout).to(device)
    batch, _, expected = random_batch(layout, batch=16 if report.has_gpu else 4, positions=64)
    inputs, targets = move(batch, device), move(expected, device)
    with torch.autocast(device.type, torch.bfloat16, enabled=kind == "bf16"):
        predictions, _ = model(inputs, wants_state=False)
    loss, _ = compute_loss(predictions, targets, config.loss_weights, smooth_l1_beta=config.training.smooth_l1_beta)
    loss.backward()  # type: ignore[no-untyped-call]
    found = {**predictions.numbers, **predictions.logits, "loss": loss}
    return found | {f"gradient of {n}": p.grad for n, p in model.named_parameters() if p.grad is not None}


def move(value: Any, device: torch.device) -> Any:
    """A dataclass of tensors, and dictionaries of them, on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: move(part, device) for name, part in value.items()}
    return replace(value, **{f.name: move(getattr(value, f.name), device) for f in fields(value)})


def compare_chunks(report: Report) -> str:
    """Milliseconds of a scan, forward and backward, by chunk size; outputs must not depend on it."""
    config = choose_sizes(report)
    torch.manual_seed(0)

    def by_kernels(inputs: scan.ScanInputs, chunk: int) -> tuple[Tensor]:
        b, c = inputs.b.unsqueeze(2), inputs.c.unsqueeze(2)
        run = kernels.import_scan().mamba_chunk_scan_combined
        return (run(inputs.x, inputs.dt, inputs.a, b, c, chunk, D=inputs.d),)

    works: dict[str, Callable[..., Any]] = {"torch": scan.scan_chunks, "kernels": by_kernels}

    def work(T: int, backend: str, chunk: int) -> Row:
        drawn = {n: t.to(report.device).requires_grad_() for n, t in draw_scan(config, T, torch.bfloat16).items()}
        inputs = scan.ScanInputs(**drawn)
        ms = time_calls(lambda: works[backend](inputs, chunk)[0].sum().backward(), report.device, rounds=3)
        worst = differ(works[backend](inputs, chunk)[0], scan.scan_chunks(inputs, CHUNKS[0])[0])
        return judge({"ms": ms, "difference": worst}, worst < TOLERANCES["bf16"], "outputs as of torch with chunk 32")

    cases = [
        {"T": frames, "backend": backend, "chunk": chunk}
        for frames in (256, 64) for backend in list_backends(report)[::-1] for chunk in CHUNKS
    ]  # fmt: skip
    report.go(cases, work, reserve=3)
    return f"{BATCH} sequences of the block's own sizes, bfloat16, forward and backward"
