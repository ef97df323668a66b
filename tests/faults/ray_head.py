"""A Ray head of a test's own, whose processes can be killed all at once."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.jobs.head_node import RAY, START_SECONDS, find_port, wait_for

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4, "RAY_USAGE_STATS_ENABLED": "0"}


@dataclass(frozen=True, kw_only=True)
class Head:
    """A head node that runs."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        """What a driver needs to join it."""
        return {**TOKEN, "RAY_ADDRESS": f"127.0.0.1:{self.port}"}

    def find(self, name: str) -> psutil.Process:
        """Its process of a name, such as `gcs_server`."""
        tree = psutil.Process(self.process.pid).children(recursive=True)
        return next(process for process in tree if process.name().startswith(name))

    def kill(self) -> None:
        """SIGKILL for all that belongs to it, its workers too."""
        doomed: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            for _ in range(2):  # the second time there is nobody left who could begin another
                doomed = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
                for one in doomed:
                    one.suspend()
        for one in doomed:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL)
        self.process.wait()
        psutil.wait_procs(doomed, timeout=20)


@contextmanager
def heading(cpus: int, port: int | None = None) -> Iterator[Head]:
    """A head node while the block lasts."""
    folder = Path(tempfile.mkdtemp(prefix="head-"))  # short: it holds sockets
    port, agent = port or find_port(), find_port()
    command = [
        str(RAY), "start", "--head", "--block", f"--port={port}", "--include-dashboard=false", f"--num-cpus={cpus}",
        f"--dashboard-agent-listen-port={agent}", f"--temp-dir={folder}", "--object-store-memory=100000000",
        "--node-ip-address=127.0.0.1",
    ]  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(command, env={**kept, **TOKEN}, stdout=said, stderr=said, start_new_session=True)
    head = Head(port=port, process=process)
    try:
        wait_for(lambda: process.poll() is not None or _is_up(port), START_SECONDS, "the head node")
        if process.poll() is not None:
            pytest.fail(f"the head node ended: {(folder / 'said').read_text()[-2000:]}")
        yield head
    finally:
        if process.poll() is None:
            head.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _is_up(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
