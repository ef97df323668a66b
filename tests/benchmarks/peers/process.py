"""A peer's process, asked for one turn at a time."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.benchmarks.race import Contestant, Round

ROOT = Path(__file__).parents[3]


class Peer:
    """A reader of `readers.py` in the peers' environment; a context."""

    def __init__(self, name: str, python: Path, folder: Path, seconds: float) -> None:
        """`seconds`: CPU-seconds of a turn."""
        self.name, self._seconds = name, seconds
        self._errors = (folder / "errors.txt").open("w+")
        self._process = subprocess.Popen(
            [python, "-m", "tests.benchmarks.peers.serve", name, folder], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
        )  # fmt: skip
        self._read()

    @property
    def contestant(self) -> Contestant:
        """For a race."""
        return Contestant(name=self.name, run=self._take_turn)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def _take_turn(self) -> Round:
        assert self._process.stdin is not None
        print(self._seconds, file=self._process.stdin, flush=True)
        return Round(**json.loads(self._read()))

    def _read(self) -> str:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return line
        self._errors.seek(0)
        raise RuntimeError(f"{self.name} ended: {self._errors.read()[-2000:]}")
