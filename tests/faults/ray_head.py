"""A Ray head of a test's own, whose processes can be killed all at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.jobs.head_node import RAY, START_SECONDS, find_port, wait_for

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4, "RAY_USAGE_STATS_ENABLED": "0"}
HEALTH = {
    "RAY_health_check_initial_delay_ms": "1000", "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000", "RAY_health_check_failure_threshold": "5",
}  # fmt: skip
"""How soon a head takes a machine that is silent for gone, as `cluster/environment.sh` has it."""


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
        kill_tree(self.process)

    def add_machine(self, name: str) -> subprocess.Popen[bytes]:
        """Another node of one CPU, on this machine, which Ray tells by a resource of that name."""
        command = [
            str(RAY), "start", "--block", f"--address=127.0.0.1:{self.port}", "--num-cpus=1",
            "--node-ip-address=127.0.0.1", f"--dashboard-agent-listen-port={find_port()}",
            "--object-store-memory=100000000", "--resources", json.dumps({name: 1}),
        ]  # fmt: skip
        process = subprocess.Popen(
            command, env={**without_ray(), **TOKEN}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        wait_for(lambda: name in self.list_machines(), START_SECONDS, name)  # two that start at once disturb each other
        return process

    def ask(self, program: str) -> str:
        """What a short program says that has joined this Ray."""
        code = f"import ray; ray.init(logging_level='ERROR', log_to_driver=False); {program}"
        environment = {**without_ray(), **self.environment}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )  # fmt: skip
        return done.stdout.strip()

    def list_machines(self) -> dict[str, str]:
        """Ids of the nodes that live, by the names that `add_machine` gave."""
        said = self.ask("import json; print(json.dumps([n for n in ray.nodes() if n['Alive']]))")
        found = json.loads(said)
        return {name: node["NodeID"] for node in found for name in node["Resources"] if name.startswith("machine")}

    def drain(self, node: str, seconds: int) -> None:
        """What `cluster/notice.py` does where a cloud takes a machine away in so many seconds."""
        command = [
            str(RAY), "drain-node", f"--address=127.0.0.1:{self.port}", f"--node-id={node}",
            "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot", f"--deadline-remaining-seconds={seconds}",
        ]  # fmt: skip
        subprocess.run(command, env={**without_ray(), **TOKEN}, check=True, capture_output=True)


def without_ray() -> dict[str, str]:
    """This process's environment, less what it says of another Ray."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for a process and all below it."""
    doomed: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        for _ in range(2):  # the second time there is nobody left who could begin another
            doomed = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            for one in doomed:
                one.suspend()
    for one in doomed:
        with suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGKILL)
    process.wait()
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
    environment = {**without_ray(), **TOKEN, **HEALTH}
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said, start_new_session=True)
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
