"""A server that looks like W&B's to its client, as far as a run's start goes, and then fails on demand."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STARTED: dict[str, Any] = {
    "upsertBucket": {
        "bucket": {
            "id": "1", "name": "run", "displayName": "run", "config": "{}", "historyLineCount": 0,
            "project": {"id": "1", "name": "worldmodel", "entity": {"id": "1", "name": "group"}},
        },
        "inserted": True,
    }
}  # fmt: skip
"""What a client is told that starts a run."""


class WandbServer:
    """Answers what a client asks to start a run; from the first row or file on (or at once) it does as `kind` says."""

    def __init__(self, kind: str, *, starts: bool) -> None:
        """`kind`: a status, or `hang`: no answer; `starts`: whether a run can start."""
        self.kind, self.is_failing = kind, not starts
        self.failed = 0
        """Requests that it did not answer well."""
        self._over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _make_handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, name="wandb server", daemon=True).start()

    def answer(self, body: bytes) -> tuple[int, dict[str, Any]] | None:
        """Status and content; None: the connection is closed without."""
        self.is_failing |= any(sign in body for sign in (b"wandb-history", b"CreateRunFiles"))
        if self.is_failing:
            self.failed += 1
            if self.kind == "hang":
                self._over.wait(600)
                return None
            return int(self.kind), {}
        return 200, {"data": STARTED if b"mutation UpsertBucket" in body else {"model": None}}

    def close(self) -> None:
        """End it."""
        self._over.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def serving(kind: str, *, starts: bool) -> Iterator[WandbServer]:
    """Such a server while the block lasts."""
    server = WandbServer(kind, starts=starts)
    try:
        yield server
    finally:
        server.close()


def _make_handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found = server.answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
            if found is None:
                return
            content = json.dumps(found[1]).encode()
            self.send_response_only(found[0])
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST

        def log_message(self, format: str, *given: object) -> None:
            pass

    return Handler
