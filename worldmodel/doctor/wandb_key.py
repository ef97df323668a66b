"""Whether W&B takes the key that is set; without one, runs are offline, which is no fault."""

from __future__ import annotations

import base64
import json
import netrc
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from worldmodel.doctor.check import Check, failed, passed, skipped, warned
from worldmodel.run.wandb_sink import choose_mode

NAME = "W&B"
SECONDS = 5.0
"""Longest wait for W&B's answer."""
QUESTION = "query { viewer { username entity } }"
REFUSALS = (401, 403)


def check_wandb(setting: str = "auto") -> Iterator[Check]:
    """W&B as an experiment's `tracking.wandb` asks for it."""
    mode, reason = choose_mode(setting)
    if mode == "disabled":
        yield skipped(NAME, "switched off")
    elif mode == "offline":
        is_asked = reason == "as asked"
        found = f"runs are offline ({reason}); they can be uploaded later"
        yield passed(NAME, found) if is_asked else warned(NAME, found, "set WANDB_API_KEY, or WANDB_MODE=offline")
    else:
        yield _ask()


def _ask() -> Check:
    """Who the key belongs to, by W&B's own interface."""
    server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").rstrip("/")
    key = read_key(urlsplit(server).hostname or "")
    word = base64.b64encode(f"api:{key}".encode()).decode()
    request = urllib.request.Request(
        f"{server}/graphql", data=json.dumps({"query": QUESTION}).encode(),
        headers={"Authorization": f"Basic {word}", "Content-Type": "application/json"},
    )  # fmt: skip
    offline = "the network or a proxy, or set WANDB_MODE=offline"
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            viewer: dict[str, Any] | None = (json.load(answer).get("data") or {}).get("viewer")
    except urllib.error.HTTPError as error:
        if error.code in REFUSALS:
            return _refuse(server)
        return warned(NAME, f"{server} answers with HTTP {error.code}: runs will be offline", f"check {offline}")
    except (OSError, ValueError, AttributeError) as error:
        return warned(NAME, f"{server} cannot be reached ({error}): runs will be offline", f"check {offline}")
    if viewer is None:
        return _refuse(server)
    return passed(NAME, f"{server} knows the key: {viewer.get('entity') or viewer.get('username')}")


def _refuse(server: str) -> Check:
    return failed(
        NAME, f"{server} refuses the key",
        "set WANDB_API_KEY to one of https://wandb.ai/authorize, or set WANDB_MODE=offline",
    )  # fmt: skip


def read_key(host: str) -> str:
    """The key that W&B would use; empty: none."""
    if key := os.environ.get("WANDB_API_KEY"):
        return key
    try:
        found = netrc.netrc(os.environ.get("NETRC") or str(Path.home() / ".netrc")).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return ""
    return (found[2] or "") if found else ""
