"""Full memory: what is said of it, what --auto-batch makes of it, and four processes on one GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch

from tests.gpu.check.report import Report, Row
from tests.gpu.check.runner import ROOT
from tests.gpu.check.toys import begin, configure, judge, make_blocks, train
from worldmodel.machine.process import release_memory
from worldmodel.model.world_model import Mamba2WorldModel
from worldmodel.training.loop import Trainer
from worldmodel.training.memory import DeviceFullError, choose_parts, explaining_full_memory

ROOM = 0.6
"""Room that is left, as a share of what a step of the whole batch takes: its parts still fit."""
BATCH = {"training__batch_size": 1024, "training__log_interval": 1}
SHARE, PROCESSES, QUARTER = 0.25, 4, "a quarter"
STEPS = 60


def fill_memory(report: Report) -> str:
    """A batch that does not fit: with a small cap, and within a quarter of the GPU that is nearly full."""
    blocks = make_blocks(report)
    changes = BATCH if report.has_gpu else {"training__batch_size": 24}

    config = configure(report, **changes)
    size = _measure_step(begin(blocks, config, report.device)) if report.has_gpu else 0

    def work(what: str, room: str) -> Row:
        with ExitStack() as stack:
            trainer = begin(blocks, config, report.device, SHARE if room == QUARTER else 1.0)
            ballast = _limit(report, room, int(ROOM * size), stack)
            found = WORKS[what](trainer)
            del ballast, trainer
            release_memory()
        return found

    rooms = ("a cap", QUARTER) if report.has_gpu else ("pretended",)
    report.go([{"what": what, "room": room} for room in rooms for what in WORKS], work, reserve=5)
    return f"room for {ROOM:.0%} of {size / 2**30:.2f} GiB" if report.has_gpu else "passes above 9 samples are refused"


def _measure_step(trainer: Trainer) -> int:
    """Bytes of device memory that steps of the whole batch take."""
    torch.cuda.reset_peak_memory_stats()
    train(trainer, 2)
    found = torch.cuda.max_memory_reserved()
    del trainer
    release_memory()
    return found


def _limit(report: Report, room: str, size: int, stack: ExitStack) -> torch.Tensor | None:
    """Leave little memory, until the stack closes; on a CPU, pretend so."""
    if not report.has_gpu:
        forward = Mamba2WorldModel.forward

        def limited(self: Mamba2WorldModel, inputs: Any, *args: Any, **options: Any) -> Any:
            if self.training and len(inputs.floats) > 9:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")
            return forward(self, inputs, *args, **options)

        stack.enter_context(mock.patch.object(Mamba2WorldModel, "forward", limited))
        return None
    total = torch.cuda.get_device_properties(report.device).total_memory
    if room == QUARTER:
        limit = int(torch.cuda.get_per_process_memory_fraction(report.device) * total)
        return torch.empty(max(0, limit - size), dtype=torch.uint8, device=report.device)
    torch.cuda.set_per_process_memory_fraction(size / total, report.device)
    return None


def _explain(trainer: Trainer) -> Row:
    """Train a step: the error must name a remedy."""
    said = "nothing: the batch fits"
    try:
        with explaining_full_memory(trainer):
            train(trainer, 1)
    except DeviceFullError as error:
        said = str(error)
    return judge({"said": said}, "--auto-batch" in said, "an error that names --auto-batch")


def _choose(trainer: Trainer) -> Row:
    """The parts that --auto-batch takes."""
    lines: list[str] = []
    parts = choose_parts(trainer, 1, lines.append)
    return judge({"parts": parts, "said": " ".join(lines)}, parts > 1, "more than one part")


WORKS = {"full memory": _explain, "--auto-batch": _choose}


def share_gpu(report: Report) -> str:
    """One process alone, then several at a time, each with its share of the GPU."""
    blocks = make_blocks(report)
    count = PROCESSES if report.has_gpu else 2
    asked = {"blocks": str(blocks), "steps": STEPS if report.has_gpu else 10, "share": SHARE}

    def start(number: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.gpu.check.trial", json.dumps({**asked, "folder": str(report.scratch)})]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def work(at_once: int) -> Row:
        processes = [start(number) for number in range(at_once)]
        said = [process.communicate(timeout=report.seconds_left)[0] for process in processes]
        failures = [text[-400:] for text, process in zip(said, processes, strict=True) if process.returncode]
        if failures:
            return judge({}, False, f"processes that end well, found {failures[0]}")
        found = [json.loads(text.splitlines()[-1]) for text in said]
        paces, peaks = [one["targets_per_second"] for one in found], [one["peak_bytes"] / 2**30 for one in found]
        values = {"targets/s": round(sum(paces)), "slowest": round(min(paces)), "peak GiB": round(max(peaks), 2)}
        is_within = not report.has_gpu or max(peaks) * 2**30 <= SHARE * torch.cuda.mem_get_info()[1]
        same = len({json.dumps(one["losses"]) for one in found}) == 1
        return judge({**values, "same losses": same}, is_within, f"at most {SHARE:.0%} of the memory each")

    report.go([{"at_once": number} for number in ((1, count) if report.has_gpu else (count,))], work, reserve=8)
    return f"{count} processes"
