"""A disk of a few megabytes that a test can fill and empty: a tmpfs in a namespace of its own."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

MOUNT = "mount -t tmpfs -o size={size},mode=700 small /mnt && echo ready && read over"
BALLAST = "ballast"
PIECE = 4096


@dataclass(frozen=True, kw_only=True)
class SmallDisk:
    """A disk with little room."""

    path: Path
    """Its folder, as all processes of this user and this machine reach it."""

    def fill(self) -> None:
        """Leave no room at all."""
        with (self.path / BALLAST).open("ab", buffering=0) as stream, suppress(OSError):
            while stream.write(b"x" * PIECE):
                pass

    def make_room(self) -> None:
        """Give back what `fill` took."""
        (self.path / BALLAST).unlink()


@contextmanager
def mounting(size: int) -> Iterator[SmallDisk]:
    """A disk of so many bytes while the block lasts. Skips where no namespace can be made, as in some containers."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("no `unshare` here: a small disk needs Linux with user namespaces")
    holder = subprocess.Popen(
        [unshare, "--user", "--map-root-user", "--mount", "sh", "-c", MOUNT.format(size=size)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdin and holder.stdout and holder.stderr
    try:
        if holder.stdout.readline() != b"ready\n":
            pytest.skip(f"no small disk can be mounted here: {holder.stderr.read().decode().strip()}")
        yield SmallDisk(path=Path(f"/proc/{holder.pid}/root/mnt"))
    finally:
        holder.stdin.close()
        holder.wait()
        holder.stdout.close()
        holder.stderr.close()


@dataclass(frozen=True, kw_only=True)
class Quota:
    """Files of this process may have so many bytes and no more: small ones find room, large ones do not."""

    path: Path
    bytes: int

    def fill(self) -> None:
        """Set it."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.bytes, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    def make_room(self) -> None:
        """Lift it."""
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
