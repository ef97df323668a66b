"""Encoding from a store far away: an S3 server behind a proxy that waits 20 ms before each request.

`slow_store GAMES SHARDS` measures; without arguments it is the server, in a process of its own.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.s3_server import SETTINGS, serve_s3
from worldmodel.blocks.encode import EncodeOptions, encode
from worldmodel.storage import Location

DELAY_SECONDS = 0.02
CHUNK_BYTES = 1 << 16


class DelayingProxy:
    """Passes bytes on to a server; whatever follows an answer is a new request, and waits."""

    def __init__(self, port: int) -> None:
        self.requests = 0
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(self._target)
            has_answered = threading.Event()
            has_answered.set()
            for way in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pass_on, args=(*way, has_answered), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, is_request: bool, answered: threading.Event) -> None:
        try:
            while data := source.recv(CHUNK_BYTES):
                if not is_request:
                    answered.set()
                elif answered.is_set():
                    answered.clear()
                    self.requests += 1
                    time.sleep(DELAY_SECONDS)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return


@contextmanager
def serve_apart() -> Iterator[str]:
    """The address of an S3 server in another process."""
    command = [sys.executable, "-m", "tests.benchmarks.slow_store"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        yield process.stdout.readline().strip()
        process.stdin.close()  # which ends it


def upload(folder: Path, target: Location) -> None:
    """Copy a folder into the store."""
    for path in folder.rglob("*"):
        if path.is_file():
            (target / str(path.relative_to(folder))).upload(path)


def measure(sources: dict[str, Path], scratch: Path) -> dict[str, float]:
    """Seconds and requests of each source, uploaded beside the proxy and encoded through it."""
    found: dict[str, float] = {}
    with serve_apart() as url:
        os.environ.update({**SETTINGS, "AWS_ENDPOINT_URL": url})
        for name, folder in sources.items():
            upload(folder, Location.of(f"s3://games/{name}"))
        proxy = DelayingProxy(int(url.rsplit(":", 1)[1]))
        os.environ["AWS_ENDPOINT_URL"] = proxy.url
        for name in sources:
            before, began = proxy.requests, time.perf_counter()
            encode(f"s3://games/{name}", str(scratch / name), EncodeOptions(cpus=0))
            found[name] = time.perf_counter() - began
            found[f"{name}_requests"] = proxy.requests - before
    return found


def main() -> None:
    """Measure, or serve until the other end closes."""
    if len(sys.argv) == 1:
        with serve_s3() as url:
            print(url, flush=True)
            sys.stdin.read()
        return
    sources = dict(zip(("loose", "shards"), map(Path, sys.argv[1:3]), strict=True))
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(measure(sources, Path(scratch))))


if __name__ == "__main__":
    main()
