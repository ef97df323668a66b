"""The model's kernels and compiled chains against plain torch: outputs, states, gradients."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.gpu.check.report import Report, Row
from tests.gpu.check.toys import differ, judge, list_backends, time_calls
from worldmodel.machine import fused
from worldmodel.model import kernels, mamba2, scan
from worldmodel.model.build import build_model
from worldmodel.model.config import ModelConfig
from worldmodel.model.mamba2 import Mamba2

FRAMES = (10, 64, 75, 256)
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOLERANCES = {"fp32": 2e-2, "bf16": 4e-2}
"""Largest difference, relative to the largest value: Triton multiplies in TF32, with 11 bits; bfloat16 has 8."""
CHUNKS = (32, 64, 128)


def compare_blocks(report: Report) -> str:
    """Scan, convolution and whole Mamba-2 block, by type and length, with and without a state before."""
    torch.set_float32_matmul_precision("highest")
    torch.manual_seed(0)
    config = ModelConfig(dropout=0.0) if report.has_gpu else ModelConfig(d_model=64, d_state=16, headdim=32)
    cases = [
        {"what": what, "type": kind, "T": frames, "state": has_state}
        for kind in TYPES for what in WORKS for frames in FRAMES for has_state in (True, False)
        if has_state or what != "convolution"
    ]  # fmt: skip
    with one_configuration():
        report.go(cases, lambda what, type, T, state: WORKS[what](report, config, type, T, state), reserve=4)
    return "difference: largest, relative to the largest value; that of torch in the same type beside it"


def _compare_scans(report: Report, config: ModelConfig, kind: str, frames: int, has_state: bool) -> Row:
    """The scan that a GPU uses, and torch's, in a type, against torch's in float32 (on a CPU: frame by frame)."""
    inputs = _draw_scan(config, frames, report.device, TYPES[kind])
    start = torch.randn(4, config.heads, config.headdim, config.d_state, device=report.device)
    before = start if has_state else None

    def run(work: Callable[..., Any], given: scan.ScanInputs, *chunk: int) -> dict[str, Tensor]:
        leaves = {f.name: getattr(given, f.name).detach().clone().requires_grad_() for f in fields(given)}
        state = None if before is None else before.clone().requires_grad_()
        y, final = work(scan.ScanInputs(**leaves), *chunk, state, wants_state=has_state)
        ends = [y] if final is None else [y, final]
        torch.stack([(end.float().sin() + end.float().square()).sum() for end in ends]).sum().backward()  # type: ignore[no-untyped-call]
        found = {"y": y, **({} if final is None else {"final": final})}
        return found | {f"gradient of {n}": leaf.grad for n, leaf in leaves.items() if leaf.grad is not None}

    wide = scan.ScanInputs(**{f.name: getattr(inputs, f.name).float() for f in fields(inputs)})
    exact = run(scan.scan_chunks, wide, config.chunk_size) if report.has_gpu else run(_step_through, wide)
    plain = run(scan.scan_chunks, inputs, config.chunk_size)
    uses_kernels = "kernels" in list_backends(report)
    ours = run(kernels.scan_chunks, inputs, config.chunk_size) if uses_kernels else plain
    return _judge(kind, ours, plain, exact, "mamba_ssm" if uses_kernels else "torch")


def _compare_models(report: Report, config: ModelConfig, kind: str, frames: int, has_state: bool) -> Row:
    """A whole block: projections, convolution, scan, gate. The kernels see the strides of real training."""
    backends = list_backends(report)
    plain = Mamba2(replace(config, backend="torch")).to(report.device)
    ours = Mamba2(replace(config, backend=backends[-1])).to(report.device)
    ours.load_state_dict(plain.state_dict())
    u = torch.randn(4, frames, config.d_model, device=report.device)
    tail, memory = map(torch.randn_like, plain.empty_state(4))

    def run(block: Mamba2, amp: bool) -> dict[str, Tensor]:
        block.zero_grad()
        with torch.autocast(report.device.type, torch.bfloat16, enabled=amp):
            before = (tail, memory) if has_state else None
            y, state = block(u, before, keep=frames, wants_state=has_state)
        y.float().square().sum().backward()
        found = {"y": y, **({"tail": state[0], "final": state[1]} if state else {})}
        return found | {f"gradient of {n}": p.grad for n, p in block.named_parameters() if p.grad is not None}

    return _judge(kind, run(ours, kind == "bf16"), run(plain, kind == "bf16"), run(plain, False), backends[-1])


def _compare_convolutions(report: Report, config: ModelConfig, kind: str, frames: int, has_state: bool) -> Row:
    """The convolution on whatever a block hands it (slices of a projection), against conv1d in float32."""
    block = Mamba2(replace(config, backend=list_backends(report)[-1])).to(report.device)
    u = torch.randn(4, frames, config.d_model, device=report.device)
    seen: list[tuple[str, Callable[..., Tensor], Tensor, Tensor, Tensor]] = []

    def listen(name: str, work: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            seen.append((name, work, x, weight, bias))
            return work(x, weight, bias)

        return convolve

    with (
        mock.patch.object(kernels, "convolve", listen("causal_conv1d", kernels.convolve)),
        mock.patch.object(mamba2, "convolve", listen("torch", mamba2.convolve)),
        torch.autocast(report.device.type, torch.bfloat16, enabled=kind == "bf16"),
    ):
        block(u, None, keep=frames, wants_state=False)
    ((name, work, *given),) = seen
    ours = _differentiate(work, [value.detach() for value in given])  # the strides stay
    exact = _differentiate(_convolve_plainly, [value.detach().float() for value in given])
    return {**_judge(kind, ours, ours, exact, name), "strides": list(given[0].stride())}


def _differentiate(work: Callable[..., Tensor], given: list[Tensor]) -> dict[str, Tensor]:
    """Output and gradients."""
    leaves = [value.requires_grad_() for value in given]
    y = work(*leaves)
    gradients = torch.autograd.grad((y.float().sin() + y.float().square()).sum(), leaves)
    return {"y": y, **{f"gradient of {n}": g for n, g in zip(("x", "weight", "bias"), gradients, strict=True)}}


WORKS: dict[str, Callable[..., Row]] = {
    "scan": _compare_scans, "block": _compare_models, "convolution": _compare_convolutions,
}  # fmt: skip


def _judge(kind: str, ours: dict[str, Tensor], plain: dict[str, Tensor], exact: dict[str, Tensor], name: str) -> Row:
    differences = {n: differ(ours[n], exact[n]) for n in exact}
    worst = max(differences, key=lambda n: differences[n] if differences[n] == differences[n] else float("inf"))
    beside = max(differ(plain[n], exact[n]) for n in exact)
    values = {"by": name, "difference": differences[worst], "torch's": beside, "worst": worst}
    most = max(TOLERANCES[kind], 3 * beside)
    return judge(values, differences[worst] < most, f"a difference below {most:.2g}")


def _convolve_plainly(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    y = F.conv1d(x.mT, weight.unsqueeze(1), bias, padding=weight.size(1) - 1, groups=x.size(2))
    return F.silu(y[..., : x.size(1)]).mT


def _draw_scan(config: ModelConfig, frames: int, device: torch.device, dtype: torch.dtype) -> scan.ScanInputs:
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device=device)

    return scan.ScanInputs(
        x=normal(4, frames, config.heads, config.headdim).to(dtype),
        dt=F.softplus(normal(4, frames, config.heads)),
        a=-torch.rand(config.heads, device=device) * 4,
        b=normal(4, frames, config.d_state).to(dtype),
        c=normal(4, frames, config.d_state).to(dtype),
        d=normal(config.heads),
    )


def _step_through(inputs: scan.ScanInputs, state: Tensor | None, *, wants_state: bool) -> tuple[Tensor, Tensor | None]:
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

    def begin_small(self: Any, *args: Any, **options: Any) -> None:
        begin(self, *args, **options)
        self.configs = sorted(self.configs, key=_find_size)[:1]

    with mock.patch.object(Autotuner, "__init__", begin_small):
        yield


def _find_size(config: Any) -> int:
    """Elements of a configuration's blocks, times its stages."""
    size = getattr(config, "num_stages", 1) or 1
    for value in config.kwargs.values():
        size *= value if isinstance(value, int) and value > 0 else 1
    return int(size)


def compare_fused(report: Report) -> str:
    """A model's predictions and gradients with compiled chains, and with the same chains as written."""
    trouble = fused.explain_missing_compiler(report.device)
    report.go([{"what": "a small chain"}], lambda what: judge({}, trouble is None, f"that it compiles: {trouble}"))
    report.go([{"what": "whole model", "type": kind} for kind in ("bf16", "fp32")], _bind(report), reserve=15)
    return "the CPU runs chains as written" if not report.has_gpu else "compiled against written, on the GPU"


def _bind(report: Report) -> Callable[..., Row]:
    def work(what: str, type: str) -> Row:
        began = time.monotonic()
        fused.reset_fusing()
        ours = run_model(report, type)
        names, seconds = sorted(function.__name__ for function in fused._compiled), time.monotonic() - began
        fused.reset_fusing(enabled=False)
        plain = run_model(report, type)
        exact = run_model(report, "fp32")
        fused.reset_fusing()
        values = _judge(type, ours, plain, exact, "compiled chains" if names else "chains as written")
        return {**values, "chains": names, "compile s": round(seconds, 1)}

    return work


def run_model(report: Report, kind: str) -> dict[str, Tensor]:
    """Predictions, loss and gradients of the baseline model on arbitrary numbers."""
    from tests.gpu.check.toys import configure
    from tests.model.golden import random_batch
    from worldmodel.training.loss import compute_loss

    config = configure(report)
    layout = config.encoding.layout
    torch.manual_seed(0)
    model = build_model(config.model, layout).to(report.device)
    inputs, _, targets = random_batch(layout, batch=16 if report.has_gpu else 4, positions=64)
    inputs, targets = (move(value, report.device) for value in (inputs, targets))
    with torch.autocast(report.device.type, torch.bfloat16, enabled=kind == "bf16"):
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
    config = ModelConfig() if report.has_gpu else ModelConfig(d_model=64, d_state=16, headdim=32)
    torch.manual_seed(0)
    works = {"torch": scan.scan_chunks, "kernels": kernels.scan_chunks}

    def work(T: int, backend: str, chunk: int) -> Row:
        inputs = _draw_scan(config, T, report.device, torch.bfloat16)
        leaf = inputs.x.clone().requires_grad_()
        given = replace(inputs, x=leaf)

        def step() -> None:
            works[backend](given, chunk)[0].sum().backward()

        ms = time_calls(step, report.device, rounds=3, calls=5 if report.has_gpu else 1)
        worst = differ(works[backend](inputs, chunk)[0], scan.scan_chunks(inputs, CHUNKS[0])[0])
        return judge({"ms": ms, "difference": worst}, worst < TOLERANCES["bf16"], "outputs as of torch with chunk 32")

    cases = [
        {"T": frames, "backend": backend, "chunk": chunk}
        for frames in (64, 256) for backend in list_backends(report) for chunk in CHUNKS
    ]  # fmt: skip
    report.go(cases, work, reserve=3)
    return "4 sequences of the block's own sizes, bfloat16"
