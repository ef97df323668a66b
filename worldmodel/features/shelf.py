"""Where blocks are at hand: a folder on a local disk, or a bounded local cache of a remote one.

A block is checked by its sha256 when a process first opens it; whether all are there, and whole by their size, is
looked up before the first.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from worldmodel.blocks.block import Block
from worldmodel.blocks.index import INDEX, PARTITIONS, BlockEntry, hash_file
from worldmodel.errors import UserError
from worldmodel.storage import Location

CACHE_FOLDER, CACHE_GB = "WORLDMODEL_CACHE", "WORLDMODEL_CACHE_GB"
"""Environment variables: where remote blocks are kept on this machine, and how many GB (1e9 bytes) of a data set."""
CACHE_SHARE = 0.8
"""Share of the disk's free room that a cache takes where `WORLDMODEL_CACHE_GB` says nothing."""
LOADERS = 4
"""Blocks that are fetched from a remote folder at a time."""
LOCK = ".lock"
"""Prefix of the files in a cache that the process holds which fills or trims it."""


class LocalShelf:
    """A folder of blocks on a local disk."""

    loaders = 1
    """How many blocks are best opened at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._verified: set[str] = set()

    def check(self, entries: Iterable[BlockEntry]) -> None:
        """UserError naming the first block that is gone or has another size than its entry."""
        for entry in entries:
            path = self.folder / entry.name
            check_size(str(path), path.stat().st_size if path.exists() else None, entry, str(self.folder))

    def verify(self, entries: Iterable[BlockEntry]) -> None:
        """UserError naming the first block whose sha256 is not that of its entry."""
        for entry in entries:
            if entry.name not in self._verified:
                self.check([entry])
                _check_hash(self.folder / entry.name, entry)
                self._verified.add(entry.name)

    def open(self, entry: BlockEntry) -> Block:
        """A block, mapped; checked when it is first opened."""
        self.verify([entry])
        return Block.open(self.folder / entry.name)

    def describe(self) -> str:
        """Where it is."""
        return str(self.folder)


class CachedShelf:
    """A remote folder of blocks, of which so many bytes are kept on a local disk; the longest unused go first."""

    loaders = LOADERS

    def __init__(self, where: Location, folder: Path, limit_bytes: int) -> None:
        self.where, self.folder, self.limit_bytes = where, folder, limit_bytes
        self._verified: set[str] = set()
        self._fetching = [threading.Lock() for _ in range(PARTITIONS)]  # a file lock does not part threads

    def check(self, entries: Iterable[BlockEntry]) -> None:
        """UserError naming the first block that is gone or has another size than its entry; nothing is fetched."""
        sizes = {found.name: found.size for found in self.where.list_entries()}
        for entry in entries:
            check_size(str(self.where / entry.name), sizes.get(entry.name), entry, str(self.where))

    def verify(self, entries: Iterable[BlockEntry]) -> None:
        """Nothing: a remote block is verified when it has been fetched."""

    def open(self, entry: BlockEntry) -> Block:
        """A block, fetched where it is not at hand, and mapped: the file may go from the cache while it is read."""
        with self._fetching[entry.partition], _locked(self.folder, str(entry.partition)):
            block = self._open_fetched(entry)
        self._trim(entry.name)
        return block

    def describe(self) -> str:
        """Where it is, and how much of it is kept here."""
        return f"{self.where}, cached in {self.folder} (up to {self.limit_bytes / 1e9:,.1f} GB)"

    def _open_fetched(self, entry: BlockEntry) -> Block:
        while True:
            path = self._fetch(entry)
            try:
                return Block.open(path)
            except UserError:
                if path.exists():  # else another worker trimmed it away between the two lines
                    raise

    def _fetch(self, entry: BlockEntry) -> Path:
        path = self.folder / entry.name
        is_whole = path.exists() and path.stat().st_size == entry.bytes
        if is_whole and entry.name not in self._verified:
            is_whole = hash_file(path) == entry.sha256
        if not is_whole:
            (self.where / entry.name).copy_to(path, expected_sha256=entry.sha256)
        self._verified.add(entry.name)
        with suppress(FileNotFoundError):  # trimmed away by another worker: opening it tells, and fetches again
            os.utime(path)
        return path

    def _trim(self, newest: str) -> None:
        with _locked(self.folder, "trim"):
            found = sorted((p.stat().st_mtime_ns, p.stat().st_size, p) for p in self.folder.glob("*.arrow"))
            over = sum(size for _, size, _ in found) - self.limit_bytes
            for _, size, path in found:
                if over > 0 and path.name != newest:
                    path.unlink()
                    over -= size


Shelf: TypeAlias = LocalShelf | CachedShelf


def open_shelf(where: Location) -> Shelf:
    """The blocks of a folder: where they lie, or through this machine's cache. UserError as `read_cache_limit`."""
    local = where.local_path()
    if local is not None:
        return LocalShelf(local)
    folder = find_cache() / hashlib.sha256(str(where).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return CachedShelf(where, folder, read_cache_limit(folder))


def find_cache() -> Path:
    """The user's own cache folder on this machine."""
    return Path(os.environ.get(CACHE_FOLDER, Path.home() / ".cache" / "worldmodel"))


def read_cache_limit(folder: Path) -> int:
    """Bytes that the cache in `folder` may hold. UserError where `WORLDMODEL_CACHE_GB` is no positive number."""
    asked = os.environ.get(CACHE_GB)
    if asked is None:
        held = sum(path.stat().st_size for path in folder.glob("*.arrow"))
        return int(CACHE_SHARE * (shutil.disk_usage(folder).free + held))
    try:
        limit = float(asked)
    except ValueError:
        limit = 0.0
    if not limit > 0:
        raise UserError(f"{CACHE_GB}: found {asked!r}, expected the GB of remote blocks to keep on this machine")
    return int(limit * 1e9)


def check_size(path: str, found: int | None, entry: BlockEntry, folder: str) -> None:
    """UserError where a block has not the size that its index says; None: it is gone."""
    if found is None:
        raise UserError(f"block {path} is gone although {folder}/{INDEX} names it: encode the games again")
    if found != entry.bytes:
        raise UserError(
            f"block {path} is damaged: it has {found:,} bytes, the index says {entry.bytes:,}; encode its games again, "
            "or copy it anew"
        )


def _check_hash(path: Path, entry: BlockEntry) -> None:
    digest = hash_file(path)
    if digest != entry.sha256:
        raise UserError(f"block {path} is damaged: sha256 is {digest}, the index says {entry.sha256}; encode again")


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    """One process at a time: the workers of a machine share its cache."""
    with (folder / f"{LOCK}-{name}").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
