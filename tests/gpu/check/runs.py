"""Whole runs in processes of their own: killed and resumed, and by the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
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

    def train(name: str, **asked: Any) -> tuple[int, dict[str, Any]]:
        told = {"blocks": str(blocks), "folder": str(report.scratch / name), "steps": STEPS, "is_exact": True, **asked}
        done = run(report, "tests.gpu.check.trial", json.dumps(told))
        return done.returncode, json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}

    def work(backend: str) -> Row:
        whole = train(f"whole-{backend}", backend=backend)[1]
        killed, _ = train(f"killed-{backend}", backend=backend, kill_at=KILL_AT)
        rest = train(f"killed-{backend}", backend=backend, resume=True)[1]
        values = {"ended by": killed, "first step": min(map(int, rest["losses"])), "bits": rest["digest"]}
        losses = {step: rest["losses"][step] == whole["losses"][step] for step in rest["losses"]}
        values |= {"equal losses": sum(losses.values()), "of": len(losses)}
        is_right = killed == -signal.SIGKILL and rest["digest"] == whole["digest"] and rest["step"] == STEPS
        return judge(values, is_right, f"bits {whole['digest']}, killed by {-signal.SIGKILL}")

    report.go([{"backend": backend} for backend in list_backends(report)], work, reserve=10)
    return f"killed before step {KILL_AT + 1} of {STEPS}, dropout on, deterministic kernels"


def run_command(report: Report) -> str:
    """`worldmodel train` as people run it, to its end; with two workers where there are two GPUs, or none."""
    if find_spec("ray") is None:
        raise Skipped("needs Ray")
    blocks = make_blocks(report)

    def work(options: str) -> Row:
        if "--workers" in options and report.has_gpu and torch.cuda.device_count() < 2:
            raise Skipped(f"needs two GPUs, found {torch.cuda.device_count()}")
        name = "-".join(["run", *options.replace("--", "").split()])
        config = configure(report, name=name, training__max_steps=16, training__num_epochs=1, training__log_interval=4)
        path = report.scratch / f"{name}.yaml"
        path.write_text(to_yaml(config))
        arguments = ["train", str(path), "--data", str(blocks), "--storage", str(report.scratch), *options.split()]
        done = run(report, "worldmodel.cli.main", *arguments)
        if done.returncode:
            return judge({"exit status": done.returncode}, False, f"0, found: {done.stdout[-600:]}")
        found = load_checkpoint(find_checkpoint(Location.of(report.scratch / name), "newest"))
        lines = [line for line in done.stdout.splitlines() if line.startswith("step ")]
        return judge({"step": found.state.step, "said": lines[-1] if lines else ""}, found.state.step == 16, "step 16")

    report.go([{"options": options} for options in ("--auto-batch", "--workers 2")], work, reserve=8)
    return "16 steps and a validation each"


def run(report: Report, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a module to its end, within what time the part has left."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=max(1.0, report.seconds_left - 1), check=False,
    )  # fmt: skip
