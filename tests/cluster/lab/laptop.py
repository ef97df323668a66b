"""The laptop: a host with a checkout, which starts a cluster and talks to it as a person would."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.lab.command import Command
from tests.cluster.lab.hosts import ROOT, Host

LAB = Path(__file__).parent
CHECKOUT = "/root/checkout"
DASHBOARD = "http://127.0.0.1:8265"
"""Where `ray dashboard` lets the head's dashboard appear."""
SETTINGS = {"RAY_ADDRESS": DASHBOARD, "RAY_AUTH_MODE": "token"}
"""What `cluster/README.md` has a person export."""


class Laptop:
    """A checkout, an SSH key, a token, and the commands that a person types."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.host = Host(
            name="laptop", addresses=("10.77.0.5",), folder=folder, keys="",
            environment={"PYTHONPATH": CHECKOUT, **environment},
        ).start()  # fmt: skip
        copy_checkout(self.checkout)
        self.run("ray get-auth-token --generate", 60)

    @property
    def checkout(self) -> Path:
        """Its checkout, seen from outside."""
        return self.host.home / "checkout"

    def write_cluster(self, name: str, overlay: str, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Change `cluster/NAME` by an overlay of the tests', and by `more`; returns the outcome."""
        path = self.checkout / "cluster" / name
        merged = merge(yaml.safe_load(path.read_text()), yaml.safe_load((LAB / overlay).read_text()))
        merged = merge(merged, dict(more or {}))
        path.write_text(yaml.safe_dump(merged, sort_keys=False))
        return merged

    def run(self, command: str, seconds: float, answer: str = "") -> str:
        """What a command in the checkout says; fails the test where it fails."""
        status, said = self.host.run(command, seconds, folder=CHECKOUT, answer=answer, environment=SETTINGS)
        assert status == 0, f"{command}: exit status {status}\n{said[-6000:]}"
        return said

    def try_to(self, command: str, seconds: float) -> tuple[int, str]:
        """Exit status and output of a command in the checkout."""
        return self.host.run(command, seconds, folder=CHECKOUT, environment=SETTINGS)

    def begin(self, command: str) -> Command:
        """Begin a command in the checkout."""
        return self.host.begin(command, folder=CHECKOUT, environment=SETTINGS)


def merge(base: Any, overlay: Any) -> Any:
    """A tree of mappings with what the overlay changes; anything but a mapping is replaced."""
    if not (isinstance(base, dict) and isinstance(overlay, dict)):
        return overlay
    return {**base, **{name: merge(base.get(name), value) for name, value in overlay.items()}}


def copy_checkout(to: Path) -> None:
    """The checkout's files as they are, without what git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, to / name)
