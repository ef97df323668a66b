"""Training on the device: its losses against the CPU's, and what a step takes."""

from __future__ import annotations

import gc
import statistics
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from tests.gpu.check.report import Report, Row
from tests.gpu.check.toys import (
    begin,
    configure,
    judge,
    list_backends,
    list_modes,
    make_blocks,
    synchronize,
    train,
)
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.machine.fused import reset_fusing
from worldmodel.run.prices import read_prices
from worldmodel.run.probe import count_operations
from worldmodel.training.loop import Hooks, Trainer

STEPS = 20
TOLERANCES = {False: 1e-2, True: 5e-2}
"""Largest relative difference of a loss, without and with bfloat16: roundings grow over 20 steps."""
INTERVAL, INTERVALS, WATCHED = 10, 4, 4
"""Steps of an interval; intervals, of which the first warms up; steps under each of the two observers."""
SETTINGS = {
    "64 x 64": {},
    "512 x 64": {"training__batch_size": 512},
    "16 x 64": {"training__batch_size": 16},
    "8 x 256": {"training__batch_size": 8, "training__sequence_length": 256},
    "windows 512": {"training__batch_size": 512, "training__mode": "window"},
}
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def compare_losses(report: Report) -> str:
    """The first losses by backend, compile mode and type, beside plain torch on the CPU."""
    blocks, expected = make_blocks(report), dict[tuple[Any, ...], list[float]]()
    shared: Row = {"training__batch_size": 16} if report.has_gpu else {}
    shared["training__deterministic"] = True

    def run(amp: bool, backend: str, mode: str, device: torch.device) -> list[float]:
        changes = {**shared, "training__amp": amp, "training__compile": mode, "model__backend": backend}
        config = configure(report, **changes, training__log_interval=1, training__device=device.type)
        return collect_losses(blocks, config, device)

    def work(amp: bool, backend: str, mode: str) -> Row:
        if (amp,) not in expected:
            expected[amp,] = run(amp, "torch", "off", torch.device("cpu"))
        losses = run(amp, backend, mode, report.device)
        is_first = (amp, backend) not in expected
        same = expected.setdefault((amp, backend), run(amp, backend, mode, report.device) if is_first else losses)
        worst = max(abs(a - b) / abs(b) for a, b in zip(losses, expected[amp,], strict=True))
        values = {"first": losses[0], "last": losses[-1], "difference": worst, "bitwise": losses == same}
        must_equal = mode in ("off", "graph")
        return judge(
            values, worst < TOLERANCES[amp] and (losses == same or not must_equal),
            f"a difference below {TOLERANCES[amp]:g}" + ", the same losses again" * must_equal,
        )  # fmt: skip

    cases = [
        {"amp": amp, "backend": backend, "mode": mode}
        for mode in list_modes(report) for backend in list_backends(report) for amp in (False, True)
    ]  # fmt: skip
    report.go(cases, work, reserve=8)
    return "difference: largest of 20 losses, relative to plain torch on the CPU; bitwise: as a second run of mode off"


def collect_losses(blocks: Path, config: ExperimentConfig, device: torch.device) -> list[float]:
    """The losses of the first steps."""
    reset_fusing()
    found: list[float] = []
    train(begin(blocks, config, device), STEPS, lambda interval: found.append(interval.loss))
    return found


def measure_steps(report: Report) -> str:
    """Steps of the modes that need no torch.compile."""
    return _measure(report, [mode for mode in list_modes(report) if mode in ("off", "graph")], list(SETTINGS))


def measure_compiled(report: Report) -> str:
    """Steps of all other modes."""
    modes = [mode for mode in list_modes(report) if mode not in ("off", "graph")]
    return _measure(report, modes, ["64 x 64", "512 x 64"])


def _measure(report: Report, modes: list[str], settings: list[str]) -> str:
    blocks = make_blocks(report)

    def work(setting: str, backend: str, mode: str) -> Row:
        changes = SETTINGS[setting] if report.has_gpu else {}
        config = configure(
            report, **changes, training__compile=mode, model__backend=backend, training__log_interval=INTERVAL
        )
        reset_fusing()
        gc.collect()
        return measure_trainer(begin(blocks, config, report.device), report)

    cases = [
        {"setting": setting, "backend": backend, "mode": mode}
        for setting in settings for backend in list_backends(report) for mode in modes
    ]  # fmt: skip
    report.go(cases if report.has_gpu else cases[:1], work, reserve=12)
    return "launches, copies, waits, sync hits: per step, by torch.profiler and set_sync_debug_mode"


def measure_trainer(trainer: Trainer, report: Report) -> Row:
    """Pace by the run's own intervals, then a few steps under each observer."""
    intervals: list[Any] = []
    counts, hits, first = Counter[str](), list[Any](), INTERVAL * INTERVALS
    watch = _watch(trainer.device, counts, hits)
    began, step = time.monotonic(), 0

    def stop() -> str | None:
        nonlocal step
        step = trainer.step
        if step in (first, first + WATCHED, first + 2 * WATCHED):
            synchronize(trainer.device)
            next(watch, None)
        return "measured" if step >= first + 2 * WATCHED else None

    if report.has_gpu:
        torch.cuda.reset_peak_memory_stats()
    try:
        trainer.run(Hooks(on_interval=lambda interval, values: intervals.append(interval), stop_reason=stop))
    finally:
        watch.close()
    measured = intervals[1:INTERVALS]
    pace = statistics.median(interval.targets_per_second for interval in measured)
    values = {
        "ms": 1000 * statistics.median(interval.step_seconds for interval in measured),
        "targets/s": round(pace),
        "MFU": getattr(measured[-1], "mfu", None) or find_mfu(trainer, pace),
        **{name: round(count / WATCHED, 1) for name, count in sorted(counts.items())},
        "sync hits": round(len(hits) / WATCHED, 1),
        "host share": measured[-1].host_share, "device share": measured[-1].device_share,
        "peak GiB": round(torch.cuda.max_memory_allocated() / 2**30, 2) if report.has_gpu else None,
        "warm-up s": round(time.monotonic() - began, 1),
    }  # fmt: skip
    return {name: value for name, value in values.items() if value is not None}


def _watch(device: torch.device, counts: Counter[str], hits: list[Any]) -> Iterator[None]:
    """Each `next` goes on: count waits that torch warns of, then what the profiler sees, then leave off."""
    has_gpu = device.type == "cuda"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if has_gpu:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            if has_gpu:
                torch.cuda.set_sync_debug_mode("default")
        hits += [warning for warning in caught if "synchronizing" in str(warning.message)]
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if has_gpu else [])]) as profiler:
        yield
    count_events(profiler, counts)


def count_events(profiler: Any, counts: Counter[str]) -> None:
    """Launches, graph launches, copies and waits among the profiler's events, by name."""
    names = {**dict.fromkeys(LAUNCHES, "launches"), **dict.fromkeys(WAITS, "waits")}
    names |= {"cudaGraphLaunch": "graph launches", "cudaMemcpyAsync": "copies", "cudaMemcpy": "copies"}
    for event in profiler.events():
        if event.name in names:
            counts[names[event.name]] += 1
        if event.device_type == DeviceType.CUDA:
            counts["kernel us"] += round(event.time_range.elapsed_us())


def find_mfu(trainer: Trainer, pace: float) -> float | None:
    """Share of the data sheet's peak in bfloat16 (float32 without `amp`); None: the peak is unknown, or this fails."""
    try:
        prices = read_prices()
        kind = prices.find_kind(torch.cuda.get_device_name(0)) if prices and trainer.device.type == "cuda" else None
        if prices is None or kind is None:
            return None
        peak = prices.gpus[kind].bf16_tflops if trainer.training.amp else prices.gpus[kind].fp32_tflops
        return pace * count_operations(trainer) / (peak.value * 1e12) if peak else None
    except Exception:  # noqa: BLE001  (a measured pace must not be lost with it)
        traceback.print_exc()
        return None
