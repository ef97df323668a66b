"""This machine, on which hosts are made: whether it can, the link that they hang on, and its own commands."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

ISOLATED = "WORLDMODEL_LAB"
"""Environment variable that `run.sh` sets."""
LINK, GATEWAY = "lab0", "10.77.0.1"
"""The link, and the address of the tests' own processes on it: object storage and a cloud's API."""
PROGRAMS = ("sshd", "rsync", "ssh", "ssh-keygen", "ip", "unshare", "nsenter", "mount", "script")
SEARCHED = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"


def require_lab() -> None:
    """Skip where hosts cannot be made, with the reason."""
    if os.geteuid() != 0:
        pytest.skip("hosts in namespaces need root")
    missing = [name for name in PROGRAMS if not shutil.which(name, path=SEARCHED)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (make test-cluster installs the Debian packages)")
    if not os.environ.get(ISOLATED):
        pytest.skip("needs namespaces of its own: run it with make test-cluster (the kernel may refuse them)")


def make_link() -> None:
    """The link that hosts hang on, and this process's address on it. Made once."""
    if Path(f"/sys/class/net/{LINK}").exists() or _says(["ip", "link", "show", LINK]):
        return
    call("ip", "link", "set", "lo", "up")
    # An address of its own: else it takes that of a host that joins, and others cannot reach it for seconds.
    call("ip", "link", "add", LINK, "address", "02:00:0a:4d:00:01", "type", "bridge")
    call("ip", "address", "add", f"{GATEWAY}/32", "dev", LINK)
    call("ip", "link", "set", LINK, "up")
    call("ip", "route", "add", "default", "dev", LINK, "src", GATEWAY)
    call("mount", "-t", "tmpfs", "tmpfs", "/run")  # names of our own, gone with our mounts
    for name in ("netns", "sshd"):
        Path("/run", name).mkdir()


def call(*words: str) -> None:
    """Run a command of the machine. CalledProcessError, with what it said, where it fails."""
    subprocess.run(list(words), check=True, capture_output=True, text=True, env={"PATH": SEARCHED})


def make_key(folder: Path) -> tuple[Path, str]:
    """A new SSH key: the file of its private half, and its public half."""
    folder.mkdir(parents=True, exist_ok=True)
    call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key"))
    return folder / "key", (folder / "key.pub").read_text()


def _says(words: Sequence[str]) -> bool:
    return subprocess.run(words, capture_output=True, check=False, env={"PATH": SEARCHED}).returncode == 0
