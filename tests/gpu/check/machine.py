"""The machine itself: driver, torch, Triton, NVML, and whether the run's gauges say what NVML says."""

from __future__ import annotations

import sys
from unittest import mock

import torch

from tests.gpu.check.report import Report, Row, Skipped
from tests.gpu.check.toys import begin, configure, judge, make_blocks, time_calls, train

SIZE = 8192
"""Side of the matrices that are multiplied."""


def examine(report: Report) -> str | None:
    """One row per thing that a training on a GPU needs."""
    cases = [{"what": name} for name in EXAMINED]
    report.go(cases, lambda what: EXAMINED[what](report))
    return torch.cuda.get_device_name(0) if report.has_gpu else "no GPU"


def _check_driver(report: Report) -> Row:
    from worldmodel.doctor.machine import describe_gpus
    from worldmodel.doctor.machines import check_gpus

    (check,) = check_gpus(describe_gpus(), 0)
    values = {"found": check.found}
    return judge(values, check.outcome.value in ("ok", "skipped"), f"a driver that torch can use: {check.remedy}")


def _describe_torch(report: Report) -> Row:
    built = f"for CUDA {torch.version.cuda}, {torch.cuda.get_arch_list()}" if torch.version.cuda else "without CUDA"
    return {"found": f"torch {torch.__version__} built {built}; Python {sys.version.split()[0]}"}


def _check_triton(report: Report) -> Row:
    from importlib.metadata import PackageNotFoundError, version

    from worldmodel.machine.fused import explain_missing_compiler

    try:
        found = {"found": f"triton {version('triton')}"}
    except PackageNotFoundError:
        found = {"found": "not installed"}
    _need_gpu(report, found["found"])
    trouble = explain_missing_compiler(report.device)
    return judge(found, trouble is None, f"a chain that compiles: {trouble}")


def _check_kernels(report: Report) -> Row:
    from worldmodel.doctor.kernel_case import check_kernels

    (check,) = check_kernels()
    return judge({"found": check.found}, not check.is_failed, f"kernels that agree: {check.remedy}")


def _check_bfloat16(report: Report) -> Row:
    from worldmodel.machine.device import has_bfloat16

    native = "native" if has_bfloat16(report.device) else "emulated: set training.amp to false"
    return {"found": native}


def _check_memory(report: Report) -> Row:
    _need_gpu(report)
    free, total = torch.cuda.mem_get_info(report.device)
    found = {"found": f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"}
    return judge(found, free > 0.8 * total, "a GPU that nobody else fills: numbers below are not the GPU's own")


def _check_nvml(report: Report) -> Row:
    from worldmodel.machine.gpu import Gpu

    _need_gpu(report)
    gpu = Gpu.open(report.device)
    if gpu is None:
        return judge({}, False, "NVML to know the GPU that torch uses")
    return {"found": f"use {gpu.read_use()}, memory {(gpu.read_memory() or 0) / 2**30:.1f} GiB"}


def _multiply(report: Report, dtype: torch.dtype, precision: str = "highest") -> Row:
    size = SIZE if report.has_gpu else 256
    torch.set_float32_matmul_precision(precision)
    a, b = (torch.randn(size, size, device=report.device).to(dtype) for _ in range(2))
    ms = time_calls(lambda: a @ b, report.device)
    torch.set_float32_matmul_precision("highest")
    return {"found": f"{2 * size**3 / ms / 1e9:.3g} TFLOP/s", "ms": ms}


EXAMINED = {
    "driver": _check_driver,
    "torch": _describe_torch,
    "triton": _check_triton,
    "kernels": _check_kernels,
    "bfloat16": _check_bfloat16,
    "memory": _check_memory,
    "NVML": _check_nvml,
    "products in bfloat16": lambda report: _multiply(report, torch.bfloat16),
    "products in TF32": lambda report: _multiply(report, torch.float32, "high"),
    "products in float32": lambda report: _multiply(report, torch.float32),
}


def _need_gpu(report: Report, found: str = "") -> None:
    if not report.has_gpu:
        raise Skipped(f"needs a GPU{f' ({found})' if found else ''}")


def compare_gauges(report: Report) -> None:
    """The gauges of a run, taken in Ray's place, beside what NVML says."""
    from worldmodel.run import gauges

    config, notes, shown = configure(report, training__log_interval=10), list[str](), dict[str, float]()
    trainer = begin(make_blocks(report), config, report.device)
    with (
        mock.patch.object(gauges, "has_ray", lambda: True),
        mock.patch.object(gauges.Gauges, "_set", lambda self, name, value: shown.update({name: value})),
    ):
        own = gauges.Gauges(config, report.device, notes.append)
        train(trainer, 40, lambda interval: own.show(gauges.describe_interval(interval)))
    report.go([{"gauge": name} for name in shown], lambda gauge: {"value": shown[gauge]})

    def work(gauge: str) -> Row:
        judge({}, not notes and shown["targets_per_second"] > 0, f"gauges without a note, found {notes}")
        _need_gpu(report)
        used, total = read_nvml(report.device)
        near = abs(shown["gpu_memory_bytes"] - used) < 0.02 * total and used >= torch.cuda.memory_reserved()
        is_busy = all(0 < shown.get(name, 0) <= 1 for name in ("host_share", "device_share"))
        return judge({"value": used}, near and is_busy, "memory within 2 % of NVML's, busy host and device")

    report.go([{"gauge": "NVML's memory"}], work)
    own.close()


def read_nvml(device: torch.device) -> tuple[int, int]:
    """Bytes taken of a GPU's memory, and all of them."""
    import pynvml

    pynvml.nvmlInit()
    found = pynvml.nvmlDeviceGetMemoryInfo(
        pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    )
    return found.used, found.total
