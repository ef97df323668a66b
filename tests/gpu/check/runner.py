"""Runs parts as processes: prints what they say, ends them at their time limit, collects rows and states."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from tests.gpu.check.one import read_rows
from tests.gpu.check.parts import Part

ROOT = Path(__file__).parents[3]
LAST_LINES = 12
WITHOUT_GPU = 3
"""Times a part's limit where there is no GPU: machines without one are slow and busy, and nobody lends them."""


@dataclass(kw_only=True)
class Check:
    """A check under way."""

    folder: Path
    """Logs, rows and end states of the parts."""
    command: Sequence[str]
    """Starts a part's process, with its name and the folder behind it."""
    found: dict[str, Any] = field(default_factory=lambda: {"machine": describe(), "began": now(), "parts": []})
    """What the JSON file holds."""

    def run(self, part: Part) -> dict[str, Any]:
        """Run a part to its end or time limit, and add its results."""
        limit = part.seconds * (1 if self.found["machine"]["gpus"] else WITHOUT_GPU)
        print(f"{part.name}: {part.about} (at most {limit} s)", flush=True)
        began = time.monotonic()
        log = self.folder / f"{part.name}.log"
        status = run_process([*self.command, part.name, str(self.folder), str(limit)], log, limit)
        state, summary, error = judge(self.folder, part, status)
        result = {
            "name": part.name, "about": part.about, "state": state, "seconds": round(time.monotonic() - began, 1),
            "limit": limit, "summary": summary, "rows": read_rows(self.folder, part.name), "error": error,
        }  # fmt: skip
        self.found["parts"].append(result)
        return result


def run_process(command: Sequence[str], log: Path, seconds: float) -> int | None:
    """Run a command and copy its output to `log` and stdout. Returns its exit status; None: its time was over."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        text=True, errors="replace",
    )  # fmt: skip
    reader = threading.Thread(target=_copy, args=(process.stdout, log), daemon=True)
    reader.start()
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        end_tree(process)
        reader.join(2)


def end_tree(process: subprocess.Popen[str]) -> None:
    """Kill a process and all that it has started: its own session, and children with sessions of theirs."""
    children: list[psutil.Process] = []
    if process.poll() is None:
        with suppress(psutil.Error):
            children = psutil.Process(process.pid).children(recursive=True)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        with suppress(psutil.Error):
            child.kill()
    process.wait(10)


def _copy(stream: Any, log: Path) -> None:
    with log.open("w") as file, suppress(ValueError):
        for line in stream:
            file.write(line)
            file.flush()
            print(f"  {line.rstrip()}" if not line.startswith("  ") else line.rstrip(), flush=True)


def judge(folder: Path, part: Part, status: int | None) -> tuple[str, str, str]:
    """State, summary and error of a part whose process has ended."""
    log, end = folder / f"{part.name}.log", folder / f"{part.name}.end"
    last = "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:]) if log.exists() else ""
    if status is None:
        return "timed out", "killed at its time limit", last
    if status == 0 and end.exists():
        found = json.loads(end.read_text())
        return found["state"], found["summary"], last if found["state"] == "failed" else ""
    how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return "failed", f"its process ended early: {how}", last


def describe() -> dict[str, Any]:
    """The machine as far as it is known without CUDA: parts find out the rest."""
    return {
        "host": platform.node(), "system": platform.platform(), "python": platform.python_version(),
        "cores": os.cpu_count(), "memory_gib": round(psutil.virtual_memory().total / 2**30, 1), "gpus": list_gpus(),
    }  # fmt: skip


def list_gpus() -> list[str]:
    """GPUs by nvidia-smi; empty where it is not there or does not answer."""
    asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        found = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ["a GPU, nvidia-smi does not answer"] if Path("/dev/nvidia0").exists() else []
    return found.stdout.splitlines()


def now() -> str:
    """This moment, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
