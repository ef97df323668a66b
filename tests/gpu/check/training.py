"""Training on the device: its losses against the CPU's, and what a step takes."""

from __future__ import annotations

import statistics
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
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
from worldmodel.machine.process import release_memory
from worldmodel.run.mfu import find_peak_rate
from worldmodel.training.interval import Interval
from worldmodel.training.loop import Trainer

STEPS = 20
TOLERANCES = {False: 1e-2, True: 5e-2}
"""Largest relative difference of a loss, without and with bfloat16: roundings grow over 20 steps."""
INTERVAL, INTERVALS, WATCHED = 10, 4, 4
"""Steps of an interval; intervals, of which the first warms up; steps that are watched."""
UNCOMPILED = ("off", "graph")
SETTINGS: dict[str, Row] = {
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
    notes = train(begin(blocks, config, device), STEPS, lambda interval: found.append(interval.loss))
    judge_notes({}, notes, config)
    return found


def judge_notes(found: Row, notes: list[str], config: ExperimentConfig) -> Row:
    """What was found; Failed where steps that were to be captured as a CUDA graph were not."""
    is_captured = not (notes and "graph" in config.training.compile)
    return judge(found, is_captured, f"captured steps, found: {'; '.join(notes)}")


def measure_steps(report: Report) -> str:
    """Pace of the modes that need no torch.compile."""
    _measure(report, [mode for mode in list_modes(report) if mode in UNCOMPILED], list(SETTINGS), measure_pace)
    return "sync hits: waits for the device per step, by set_sync_debug_mode"


def measure_compiled(report: Report) -> str:
    """Pace of all other modes."""
    modes = [mode for mode in list_modes(report) if mode not in UNCOMPILED]
    _measure(report, modes, ["64 x 64", "512 x 64"], measure_pace)
    return "sync hits: waits for the device per step, by set_sync_debug_mode"


def count_launches(report: Report) -> str:
    """Launches of a step, in a part of its own: a profiler may crash the process."""
    with open_profiler(report.device):  # before anything is captured: CUPTI may not start behind a CUDA graph
        torch.ones(8, device=report.device).sum().item()
    modes = [mode for mode in list_modes(report) if mode in UNCOMPILED]
    _measure(report, modes, ["64 x 64", "512 x 64"], profile_steps)
    return "per step, by torch.profiler; top: kernels by time"


def _measure(report: Report, modes: list[str], settings: list[str], look: Callable[[Trainer], Row]) -> None:
    blocks = make_blocks(report)

    def work(setting: str, backend: str, mode: str) -> Row:
        shared = {"training__compile": mode, "model__backend": backend, "training__log_interval": INTERVAL}
        config = configure(report, **shared, **(SETTINGS[setting] if report.has_gpu else {}))
        reset_fusing()
        release_memory()
        return look(begin(blocks, config, report.device))

    cases = [
        {"setting": setting, "backend": backend, "mode": mode}
        for setting in settings for backend in list_backends(report) for mode in modes
    ]  # fmt: skip
    report.go(cases if report.has_gpu else cases[:1], work, reserve=10)


def measure_pace(trainer: Trainer) -> Row:
    """Pace by the run's own intervals, then the waits of a few steps."""
    intervals, has_gpu, first = list[Interval](), trainer.device.type == "cuda", INTERVAL * INTERVALS
    if has_gpu:
        torch.cuda.reset_peak_memory_stats()
    notes = train(trainer, first, intervals.append)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _watch(trainer, first, lambda: _warn_of_waits(has_gpu), lambda: _warn_of_waits(False))
    hits = sum("synchronizing" in str(warning.message) for warning in caught)
    measured = intervals[1:INTERVALS]
    pace = statistics.median(interval.targets_per_second for interval in measured)
    peak = find_peak_rate(trainer.config, trainer.device, 1)
    values = {
        "ms": 1000 * statistics.median(interval.step_seconds for interval in measured),
        "targets/s": round(pace),
        "MFU": pace / peak if peak else None,
        "sync hits": round(hits / WATCHED, 1),
        "host share": measured[-1].host_share, "device share": measured[-1].device_share,
        "peak GiB": round(torch.cuda.max_memory_allocated() / 2**30, 2) if has_gpu else None,
        "first steps s": round(INTERVAL * intervals[0].step_seconds, 1),
    }  # fmt: skip
    return judge_notes({name: value for name, value in values.items() if value is not None}, notes, trainer.config)


def profile_steps(trainer: Trainer) -> Row:
    """What the profiler sees of a few steps, behind some that warm up."""
    train(trainer, INTERVAL)
    profiler = open_profiler(trainer.device)

    def stop() -> None:
        synchronize(trainer.device)
        profiler.stop()

    _watch(trainer, INTERVAL, profiler.start, stop)
    return count_events(profiler.events())


def _watch(trainer: Trainer, step: int, start: Callable[[], object], stop: Callable[[], object]) -> None:
    """Train on from `step`; the last steps are watched, and not the end of the run, which saves."""
    train(trainer, step + 1 + WATCHED, before={step + 1: start, step + 1 + WATCHED: stop})


def _warn_of_waits(wanted: bool) -> None:
    if torch.cuda.is_initialized():
        torch.cuda.set_sync_debug_mode("warn" if wanted else "default")


def open_profiler(device: torch.device) -> profile:
    """A profiler of host and device."""
    return profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])])


def count_events(events: Iterable[Any]) -> Row:
    """Launches, graph launches, copies and waits per step, time of kernels, and the kernels that take most of it."""
    names = {**dict.fromkeys(LAUNCHES, "launches"), **dict.fromkeys(WAITS, "waits")}
    names |= {"cudaGraphLaunch": "graph launches", "cudaMemcpyAsync": "copies", "cudaMemcpy": "copies"}
    counts, kernels = Counter[str](), Counter[str]()
    for event in events:
        if event.name in names:
            counts[names[event.name]] += 1
        if event.device_type == DeviceType.CUDA:
            kernels[event.name[:60]] += round(event.time_range.elapsed_us())
    found: Row = {name: round(count / WATCHED, 1) for name, count in sorted(counts.items())}
    top = [f"{name} {us // WATCHED} us" for name, us in kernels.most_common(6)]
    return {**found, "kernels ms": kernels.total() / WATCHED / 1000, "top": top}
