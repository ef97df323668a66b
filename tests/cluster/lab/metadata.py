"""The metadata services of three clouds, as machines see them: each asks for its own headers, and announces an end.

One server plays them all, for any number of machines, each below a base URL of its own.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "a-token"
EVENTS, NAME = "/metadata/scheduledevents?api-version=2020-07-01", "/metadata/instance/compute/name"


@dataclass(kw_only=True)
class Announcer:
    """The service of one machine."""

    cloud: str
    name: str
    ends: float | None = None
    """When the machine will be taken away, in seconds since 1970; None: no notice stands."""
    others: list[str] = field(default_factory=list)
    """Machines whose end is announced here too, as Azure does."""
    garbage: str = ""
    """What it answers in place of everything after it was recognised; empty: the truth."""
    silence: float = 0.0
    """Seconds that each answer takes."""

    def announce(self, seconds: float) -> None:
        """A notice, that far ahead."""
        self.ends = time.time() + seconds

    def answer(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        """Status and text."""
        time.sleep(self.silence)
        found = getattr(self, f"_answer_{self.cloud}")(method, path, headers)
        is_question = "token" not in path and "/instance/id" not in path and NAME not in path
        return (200, self.garbage) if self.garbage and is_question else found

    def _answer_aws(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        if path == "/latest/api/token":
            asks_well = method == "PUT" and headers.get("x-aws-ec2-metadata-token-ttl-seconds", "").isdigit()
            return (200, TOKEN) if asks_well else (400, "")
        if headers.get("x-aws-ec2-metadata-token") != TOKEN:
            return 401, ""
        if path != "/latest/meta-data/spot/instance-action" or self.ends is None:
            return 404, ""
        return 200, json.dumps({"action": "terminate", "time": f"{_at(self.ends):%Y-%m-%dT%H:%M:%SZ}"})

    def _answer_gcp(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        if method != "GET" or headers.get("metadata-flavor") != "Google":
            return 403, ""
        values = {"id": "1", "preempted": "FALSE" if self.ends is None else "TRUE", "maintenance-event": "NONE"}
        value = values.get(path.removeprefix("/computeMetadata/v1/instance/"))
        return (200, value) if value else (404, "")

    def _answer_azure(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        if method != "GET" or headers.get("metadata") != "true":
            return 400, ""
        if path.startswith(NAME):
            return 200, self.name
        if path != EVENTS:
            return 404, ""
        ends = [] if self.ends is None else [("Preempt", [self.name, *self.others], self.ends)]
        ends += [("Preempt", self.others, time.time() + 1), ("Reboot", [self.name], time.time() + 2)]
        events = [
            {"EventId": str(number), "EventType": kind, "ResourceType": "VirtualMachine", "Resources": machines,
             "EventStatus": "Scheduled", "NotBefore": format_datetime(_at(moment), usegmt=True)}
            for number, (kind, machines, moment) in enumerate(ends)
        ]  # fmt: skip
        return 200, json.dumps({"DocumentIncarnation": 1, "Events": events})


class MetadataServer:
    """All machines' services."""

    def __init__(self, base: str) -> None:
        self._base, self._machines = base, dict[str, Announcer]()

    def add(self, name: str, cloud: str) -> tuple[Announcer, str]:
        """A machine's service (`aws`, `gcp` or `azure`), and its base URL."""
        self._machines[name] = Announcer(cloud=cloud, name=name)
        return self._machines[name], f"{self._base}/{name}"

    def answer(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        """What the machine named by a path's first part is told."""
        name, _, rest = path.lstrip("/").partition("/")
        machine = self._machines.get(name)
        return machine.answer(method, f"/{rest}", headers) if machine else (404, "")


@contextmanager
def serve_metadata(address: str = "127.0.0.1") -> Iterator[MetadataServer]:
    """A server on an address of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = found.answer(self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
            self.send_response(status)
            flavour = "metadata-flavor" in map(str.lower, self.headers)
            self.send_header("Metadata-Flavor", "Google" if flavour else "none")
            self.end_headers()
            with suppress(BrokenPipeError):  # who asked did not wait
                self.wfile.write(text.encode())

        do_PUT = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((address, 0), Handler)
    found = MetadataServer(f"http://{address}:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
