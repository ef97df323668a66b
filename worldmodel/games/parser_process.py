"""A process of its own for the replay parser, which is native code that may panic, hang or die.

Parent and child speak lines of JSON over pipes. The child (`python -m worldmodel.games.parser_process STAGING`) reads
one replay per line and leaves its game, in the parsed layout, under `STAGING/<number>`; the parent holds a deadline.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import worldmodel
from worldmodel.errors import GameError

TIMEOUT = 60.0
"""Seconds for one replay; a long one takes less than one."""
_MEMORY = 12 * 2**30
"""Bytes of address space for the child: a file that makes the parser ask for more fails alone."""
_CHUNK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Job:
    """One replay to parse."""

    number: int
    """Place in the order of all files; results are judged in this order."""
    path: str
    source: str
    """The path as the entry and the reasons name it."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one replay: an entry, or a reason, or (none of it) a game that was there before."""

    number: int
    md5: str = ""
    """Empty where the file could not be read."""
    entry: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    failure: str = ""
    """What kept the process from doing its work whatever the file: no space left, say. It ends the run."""


class ParserProcess:
    """A child that parses one replay at a time. Restarts when it dies or is late."""

    def __init__(self, staging: Path, known: set[str], timeout: float = TIMEOUT) -> None:
        """`staging`: folder for finished games; `known`: md5s of games that are there already and need no parsing."""
        self._staging, self._known, self._timeout = staging, known, timeout
        self._deadline = 0.0
        self._pending = b""
        self._job: Job | None = None
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._child = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        package = str(Path(worldmodel.__file__).parents[1])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        child = subprocess.Popen(
            [sys.executable, "-m", "worldmodel.games.parser_process", str(self._staging)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip
        self._pending = b""
        _send(child, json.dumps(sorted(self._known)))
        return child

    @property
    def outlet(self) -> int:
        """File descriptor that becomes readable when `take` has something to say; changes when the child restarts."""
        assert self._child.stdout is not None
        return self._child.stdout.fileno()

    @property
    def seconds_left(self) -> float:
        """Until the current replay is late."""
        return max(self._deadline - time.monotonic(), 0.0)

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a replay."""
        return self._job is None

    def give(self, job: Job) -> None:
        """Hand over the next replay."""
        self._job, self._deadline = job, time.monotonic() + self._timeout
        _send(self._child, json.dumps({"number": job.number, "path": job.path, "source": job.source}))

    def take(self) -> Outcome | None:
        """Read what the child wrote: the outcome of its replay, or None while the line is not complete."""
        chunk = os.read(self.outlet, _CHUNK)
        self._pending += chunk
        if not chunk:
            return self._fail(f"the replay parser died ({self._describe_death()})")
        if not self._pending.endswith(b"\n"):
            return None
        answer, self._pending, self._job = json.loads(self._pending), b"", None
        return Outcome(**answer)

    def give_up_late(self) -> Outcome | None:
        """The outcome of a replay that is over its time, or None."""
        if self._job is None or self.seconds_left > 0:
            return None
        return self._fail(f"the replay parser did not finish within {self._timeout:.0f} s")

    def _fail(self, reason: str) -> Outcome | None:
        job, self._job = self._job, None
        self.stop()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._child = self._start()
        return None if job is None else Outcome(number=job.number, reason=f"unreadable replay: {reason}")

    def _describe_death(self) -> str:
        code = self._child.wait()
        self._errors.seek(0)
        said = self._errors.read()[-4096:].decode(errors="replace").strip().splitlines()
        cause = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return f"{cause}: {said[-1][:200]}" if said else cause

    def stop(self) -> None:
        """End the child at once."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout, self._errors):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _send(child: subprocess.Popen[bytes], line: str) -> None:
    assert child.stdin is not None
    # A child that is dead already is noticed where its answer is awaited.
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(line.encode() + b"\n")
        child.stdin.flush()


def parse_job(job: Job, staging: Path, known: set[str]) -> Outcome:
    """Parse one replay in this process and leave its game under `staging`."""
    from worldmodel.games.replay import name_replay, parse_replay, read_replay_bytes
    from worldmodel.games.writer import write_parsed

    md5 = ""
    try:
        raw = read_replay_bytes(Path(job.path))
        md5 = name_replay(raw)
        if md5 in known:
            return Outcome(number=job.number, md5=md5)
        replay = parse_replay(raw, Path(job.source))
        entry = write_parsed(staging / str(job.number), replay.frames, replay.entry, replay.frame_ids)
    except GameError as error:
        return Outcome(number=job.number, md5=md5, reason=str(error))
    except OSError as error:
        return Outcome(number=job.number, md5=md5, failure=str(error))
    except (MemoryError, LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        # A file can be malformed in ways that nobody foresaw; its reason says so and the next file is read.
        return Outcome(number=job.number, md5=md5, reason=f"unreadable replay: {type(error).__name__}: {error}"[:300])
    return Outcome(number=job.number, md5=md5, entry=entry)


def serve(staging: Path) -> None:
    """The child: read jobs from standard input, write outcomes to what was standard output, until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = _MEMORY if hard == resource.RLIM_INFINITY else min(_MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    known = set(json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        outcome = parse_job(Job(**json.loads(line)), staging, known)
        answers.write(json.dumps(vars(outcome)) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
