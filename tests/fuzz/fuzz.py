"""Coverage-guided fuzzing of the readers: `python -m tests.fuzz.fuzz --seconds 600 parsed tar tensors`.

Each reader is fuzzed for so long, one after another, by atheris (libFuzzer) in a process of its own, which is started
again after a crash. Crashes lie in `--out`, each kind once; the last line holds the figures as JSON. Exit status 1
where there was any crash.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.fuzz.inputs import MOST_BYTES

MEMORY_MIB = 2048
"""A reader that takes more than this for an input of a quarter of a megabyte has been tricked."""
SLOW_SECONDS = 10
"""An input that takes longer than this is a crash too."""
GRACE_SECONDS = 60
TARGETS = ("parsed", "tar", "tensors")


@dataclass(kw_only=True)
class Figures:
    """What fuzzing one reader came to."""

    target: str
    seconds: float = 0.0
    executions: int = 0
    coverage: int = 0
    """Edges of the instrumented Python code that inputs have reached."""
    corpus: int = 0
    """Inputs that were kept because they reached something new."""
    peak_mib: int = 0
    crashes: dict[str, str] = field(default_factory=dict)
    """Kind of crash (exception and place) to the file that causes it."""
    crashed: int = 0
    """Times that a process crashed, of whatever kind."""


def fuzz(target: str, seconds: float, out: Path, corpus: Path) -> Figures:
    """Fuzz one reader for so many seconds."""
    figures, began = Figures(target=target), time.monotonic()
    while (left := seconds - (time.monotonic() - began)) >= 1:
        with tempfile.TemporaryDirectory() as found:
            status, said = _run(target, left, corpus, Path(found))
            _note(figures, said)
            if status:
                figures.crashed += 1
                _keep_crash(figures, said, Path(found), out)
    figures.seconds = time.monotonic() - began
    figures.corpus = len(list(corpus.iterdir()))
    return figures


def _run(target: str, seconds: float, corpus: Path, found: Path) -> tuple[int, str]:
    command = [
        sys.executable, "-m", "tests.fuzz.fuzz_one", target, str(corpus), f"-max_total_time={max(1, int(seconds))}",
        f"-max_len={MOST_BYTES}", f"-rss_limit_mb={MEMORY_MIB}", f"-timeout={SLOW_SECONDS}", "-print_final_stats=1",
        f"-artifact_prefix={found}/",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    log = found / "log"
    with log.open("wb") as sink:
        try:
            done = subprocess.run(
                command, stdout=sink, stderr=subprocess.STDOUT, env=environment, timeout=seconds + GRACE_SECONDS
            )
            status = done.returncode
        except subprocess.TimeoutExpired:
            status = -1
    said = log.read_text(errors="replace")
    log.unlink()
    return status, said


def _note(figures: Figures, said: str) -> None:
    stats = dict(re.findall(r"^stat::(\w+):\s+(\d+)$", said, re.MULTILINE))
    steps = [int(number) for number in re.findall(r"^#(\d+)\t", said, re.MULTILINE)]
    figures.executions += int(stats.get("number_of_executed_units", max(steps, default=0)))
    figures.peak_mib = max(figures.peak_mib, int(stats.get("peak_rss_mb", 0)))
    reached = [int(number) for number in re.findall(r" cov: (\d+) ", said)]
    figures.coverage = max([figures.coverage, *reached])


def _keep_crash(figures: Figures, said: str, found: Path, out: Path) -> None:
    kind = _name_crash(said)
    if kind in figures.crashes:
        return
    artifacts = [path for path in found.iterdir() if path.name.split("-")[0] in ("crash", "timeout", "oom", "slow")]
    out.mkdir(parents=True, exist_ok=True)
    kept = out / f"{figures.target}-{len(figures.crashes)}"
    kept.with_suffix(".txt").write_text(f"{kind}\n\n{said[-6000:]}")
    if artifacts:
        kept.write_bytes(artifacts[0].read_bytes())
    figures.crashes[kind] = str(kept)


def _name_crash(said: str) -> str:
    """The exception, or libFuzzer's word, and the last line of the project's own code."""
    place = re.findall(r'File "[^"]*/worldmodel/([^"]+)", line (\d+), in (\w+)', said)
    where = f" at {place[-1][0]}:{place[-1][1]} {place[-1][2]}" if place else ""
    raised = re.search(r"Uncaught Python exception: ===\n(\w+)", said)
    if raised:
        return raised[1] + where
    error = re.search(r"ERROR: libFuzzer: ([^\n(]+)", said)
    return (error[1].strip() if error else "the process ended") + where


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz readers, one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], default=[])
    parser.add_argument("--seconds", type=float, default=600.0, help="for each reader")
    parser.add_argument("--out", type=Path, default=Path("fuzz-crashes"))
    parser.add_argument("--corpus", type=Path, help="folder that keeps what was found for the next time")
    options = parser.parse_args(arguments)
    all_figures = []
    with tempfile.TemporaryDirectory() as scratch:
        for target in options.targets or TARGETS:
            corpus = (options.corpus or Path(scratch)) / target
            corpus.mkdir(parents=True, exist_ok=True)
            figures = fuzz(target, options.seconds, options.out, corpus)
            all_figures.append(figures)
            print(json.dumps(asdict(figures)), flush=True)
    return int(any(figures.crashes for figures in all_figures))


if __name__ == "__main__":
    sys.exit(main())
