"""Three clouds' metadata services, and the notice each gives there before it takes a machine away."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

from worldmodel.machine.notice import Notice

METADATA = os.environ.get("WORLDMODEL_METADATA", "http://169.254.169.254")
"""Base URL of the metadata service: the same address in all three clouds."""
ANSWER_SECONDS = 2.0
"""Longest wait for it."""
ANSWER_BYTES = 1 << 16
"""Most that is read of an answer."""
FIND_TRIES, FIND_SECONDS = 5, 1.0
"""Times that it is looked for, and the time between them: it may be late after a start."""
GOOGLE, AZURE = {"Metadata-Flavor": "Google"}, {"Metadata": "true"}
"""Headers that each asks for."""
GOOGLE_KEYS = (("preempted", "TRUE", 30.0), ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE", 60.0))
"""Keys below `instance/`, the value of a notice, and the documented seconds until the end."""
QUIET = ("FALSE", "NONE", "MIGRATE_ON_HOST_MAINTENANCE")
"""Their other values."""


def ask(path: str, headers: dict[str, str], method: str = "GET") -> Any:
    """The metadata service's answer, never through a proxy. OSError (HTTPError among it) where it has none."""
    request = urllib.request.Request(METADATA + path, headers=headers, method=method)
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=ANSWER_SECONDS)


def ask_text(path: str, headers: dict[str, str], method: str = "GET") -> str:
    """The answer's text."""
    with ask(path, headers, method) as answer:
        return str(answer.read(ANSWER_BYTES).decode())


class Cloud(Protocol):
    """A cloud's interface; both methods raise where it does not answer as described."""

    name: str

    def recognise(self) -> None:
        """Raises where this machine is not of this cloud."""

    def look(self) -> Notice | None:
        """The notice that stands."""


class Aws:
    """Instance metadata, version 2: the notice appears two minutes ahead, and nothing is there before."""

    name = "aws"

    def recognise(self) -> None:
        """Only AWS hands out tokens."""
        self._take_token()

    def look(self) -> Notice | None:
        """What happens (stop, hibernate or terminate), and when."""
        try:
            text = ask_text("/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": self._take_token()})
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise
        found = json.loads(text)
        deadline = datetime.fromisoformat(found["time"]).timestamp()
        return Notice(reason=f"AWS takes this spot machine away ({found['action']})", deadline=deadline)

    def _take_token(self) -> str:
        return ask_text("/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT")


class Google:
    """Metadata server: values change 30 s before a preemption, a minute (with a GPU an hour) before maintenance."""

    name = "gcp"

    def recognise(self) -> None:
        """The server names itself."""
        with ask("/computeMetadata/v1/instance/id", GOOGLE) as answer:
            if answer.headers.get("Metadata-Flavor") != "Google":
                raise ValueError("not Google's")

    def look(self) -> Notice | None:
        """Return the first key with a notice."""
        for key, alarm, ahead in GOOGLE_KEYS:
            value = ask_text(f"/computeMetadata/v1/instance/{key}", GOOGLE).strip()
            if value == alarm:
                reason = f"Google Cloud takes this machine away ({key}: {value})"
                return Notice(reason=reason, deadline=time.time() + ahead)
            if value not in QUIET:
                raise ValueError(f"{key} is {value[:40]!r}")
        return None


class Azure:
    """Scheduled events: a list for all machines that belong together. None is approved: that would end it sooner."""

    name = "azure"

    def recognise(self) -> None:
        """The machine's own name, which events carry."""
        path = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
        self._machine = ask_text(path, AZURE)

    def look(self) -> Notice | None:
        """Return the first preemption of this machine; one without a time is under way."""
        path = "/metadata/scheduledevents?api-version=2020-07-01"
        events = json.loads(ask_text(path, AZURE))["Events"]
        mine = [event["NotBefore"] for event in events
                if event["EventType"] == "Preempt" and self._machine in event["Resources"]]  # fmt: skip
        times = [parsedate_to_datetime(text).timestamp() if text else time.time() for text in mine]
        return Notice(reason="Azure takes this spot machine away (Preempt)", deadline=min(times)) if times else None


def find_cloud() -> Cloud | None:
    """The cloud whose metadata service answers here; None: none does."""
    clouds: list[Cloud] = [Aws(), Google(), Azure()]
    for attempt in range(FIND_TRIES):
        time.sleep(FIND_SECONDS if attempt else 0)
        for cloud in clouds:
            try:
                cloud.recognise()
            except Exception:  # noqa: BLE001  (whatever answers there, it is not this cloud)
                continue
            return cloud
    return None
