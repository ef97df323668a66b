"""A Ray head node of the tests' own, and the `ray job` commands against it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")
START_SECONDS, JOB_SECONDS = 60, 120


@dataclass(frozen=True, kw_only=True)
class HeadNode:
    """A running head node."""

    address: str
    environment: dict[str, str]

    def start_ray(self, *words: str, folder: Path = ROOT) -> subprocess.Popen[str]:
        """Begin a `ray` command as a client does, in a folder."""
        return subprocess.Popen(
            [str(RAY), *words], cwd=folder, env={**self.environment, "RAY_ADDRESS": self.address}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def run_ray(self, *words: str, folder: Path = ROOT) -> tuple[int, str]:
        """Exit status and output of a `ray` command."""
        client = self.start_ray(*words, folder=folder)
        try:
            return client.wait(JOB_SECONDS), client.communicate()[0]
        finally:
            client.kill()

    def submit(self, name: str, command: Sequence[str], *options: str, folder: Path = ROOT) -> tuple[int, str]:
        """Submit a job and see it to its end."""
        return self.run_ray("job", "submit", "--submission-id", name, *options, "--", *command, folder=folder)

    def read_status(self, name: str) -> str:
        """What `ray job status` says of a job's state: SUCCEEDED, FAILED, STOPPED, RUNNING or PENDING."""
        said = self.run_ray("job", "status", name)[1].lower()
        ends = {"succeeded": "SUCCEEDED", "failed": "FAILED", "was stopped": "STOPPED", "running": "RUNNING"}
        return next((state for word, state in ends.items() if word in said), "PENDING")


@contextmanager
def start_head(cpus: int) -> Iterator[HeadNode]:
    """`cd CHECKOUT && ray start --head` with ports and folders of its own, and token authentication."""
    folder = Path(tempfile.mkdtemp(prefix="head-"))  # short: it holds sockets
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "WORLDMODEL_"))}
    environment = {
        **kept, "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}", "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
    }  # fmt: skip
    dashboard, agent = find_port(), find_port()
    command = [
        str(RAY), "start", "--head", "--block", "--port=0", f"--dashboard-port={dashboard}", f"--num-cpus={cpus}",
        f"--dashboard-agent-listen-port={agent}", f"--temp-dir={folder}", "--object-store-memory=100000000",
    ]  # fmt: skip
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said, start_new_session=True)
    node = HeadNode(address=f"http://127.0.0.1:{dashboard}", environment=environment)
    try:
        wait_for(lambda: process.poll() is not None or is_up(node.address), START_SECONDS, "the head node")
        if process.poll() is not None:
            pytest.fail(f"the head node ended: {(folder / 'said').read_text()[-2000:]}")
        yield node
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def is_up(address: str) -> bool:
    """Whether the jobs' server answers, if only that a token is missing."""
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=2)
    except urllib.error.HTTPError as error:
        return error.code == 401
    except OSError:
        return False
    return True


def find_port() -> int:
    """A free port above those that Ray gives to its workers."""
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            if port not in _given:
                _given.add(port)
                return port
    raise OSError("no free port between 20000 and 32000")


_given: set[int] = set()


def wait_for(is_so: Callable[[], object], seconds: float, what: str) -> None:
    """Until something is so; fails the test where it is not in time."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {seconds:g} s")
        time.sleep(0.1)
