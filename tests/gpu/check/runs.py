"""Whole runs in processes of their own: killed and resumed, and by the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import torch

from tests.gpu.check.report import Report, Row, Skipped
from tests.gpu.check.runner import ROOT
from tests.gpu.check.toys import configure, judge, list_backends, make_blocks
from worldmodel.experiment.config_file import to_yaml
from worldmodel.storage import Location
from worldmodel.training.checkpoint import load_checkpoint
from worldmodel.training.checkpoint_list import find_checkpoint

STEPS, KILL_AT = 24, 11


def resume_exactly(report: Report) -> str:
    """A run that is killed and resumed ends with the bits of one that is not, by backend and compile mode."""
    blocks = make_blocks(report)

    def train(name: str, **asked: Any) -> subprocess.CompletedProcess[str]:
        told = {"blocks": str(blocks), "folder": str(report.scratch / name), "steps": STEPS, "is_exact": True, **asked}
        return run(report, "tests.gpu.check.trial", json.dumps(told))

    def work(backend: str) -> Row:
        with ThreadPoolExecutor() as both:
            whole = both.submit(train, f"whole-{backend}", backend=backend)
            killed = both.submit(train, f"killed-{backend}", backend=backend, kill_at=KILL_AT).result()
        rest = train(f"killed-{backend}", backend=backend, resume=True)
        expected, found = (read_result(done) for done in (whole.result(), rest))
        losses = [found["losses"][step] == expected["losses"][step] for step in found["losses"]]
        values = {"ended by": killed.returncode, "first step": min(map(int, found["losses"])), "bits": found["digest"]}
        values |= {"equal losses": sum(losses), "of": len(losses)}
        is_right = killed.returncode == -signal.SIGKILL and found["digest"] == expected["digest"]
        return judge(values, is_right and found["step"] == STEPS, f"bits {expected['digest']}, killed by SIGKILL")

    report.go([{"backend": backend} for backend in list_backends(report)], work, reserve=10)
    return f"killed before step {KILL_AT + 1} of {STEPS}, dropout on, deterministic kernels"


def run_command(report: Report) -> None:
    """`worldmodel train` as people run it, to its end."""
    _run_command(report, "--auto-batch")


def run_workers(report: Report) -> None:
    """The same with two workers."""
    if report.has_gpu and torch.cuda.device_count() < 2:
        raise Skipped(f"needs two GPUs, found {torch.cuda.device_count()}")
    _run_command(report, "--workers 2")


def _run_command(report: Report, options: str) -> None:
    if find_spec("ray") is None:
        raise Skipped("needs Ray")
    blocks = make_blocks(report)

    def work(options: str) -> Row:
        config = configure(report, name="run", training__max_steps=16, training__num_epochs=1, training__log_interval=4)
        path = report.scratch / "run.yaml"
        path.write_text(to_yaml(config))
        arguments = ["train", str(path), "--data", str(blocks), "--storage", str(report.scratch), *options.split()]
        done = run(report, "worldmodel.cli.main", *arguments)
        if done.returncode:
            return judge({"exit status": done.returncode}, False, f"0, found: {done.stdout[-600:]}")
        found = load_checkpoint(find_checkpoint(Location.of(report.scratch / "run"), "newest"))
        lines = [line for line in done.stdout.splitlines() if line.startswith("step ")]
        return judge({"step": found.state.step, "said": lines[-1] if lines else ""}, found.state.step == 16, "step 16")

    report.go([{"options": options}], work)


def read_result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The last line of a training; Failed where it ended badly."""
    judge({}, done.returncode == 0, f"a process that ends well, found {done.stdout[-600:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(report: Report, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a module to its end, within what time the part has left."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=max(1.0, report.seconds_left - 3), check=False,
    )  # fmt: skip
