"""A place for files, on a local disk, on S3, Google Cloud Storage or Azure: one small vocabulary over `pyarrow.fs`.

Whole files only ever appear complete: a local file is written beside its target, synced and renamed; an object store
publishes an object when its upload has ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.fs as pafs

from worldmodel.address import read_address
from worldmodel.local_file import holding, replacing
from worldmodel.object_store import DamagedError, MissingError, StorageError, explain_failure, open_store

CHUNK_BYTES = 4 << 20
"""Bytes read at a time when a file is copied or hashed."""
READ_TRIES = 5
"""Times that an object is read which is replaced meanwhile."""
Stream: TypeAlias = io.BufferedIOBase | pa.NativeFile


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What a folder holds under one name."""

    name: str
    """Path below the listed folder, with `/` between its parts."""
    size: int
    """Bytes of a file; 0 for a folder."""
    is_folder: bool
    modified: int = 0
    """When a file was last written, in nanoseconds since 1970; 0 where the store does not say."""

    @classmethod
    def of(cls, info: pafs.FileInfo, name: str) -> Entry:
        """What pyarrow found."""
        is_folder = info.type == pafs.FileType.Directory
        return cls(name=name, size=info.size or 0, is_folder=is_folder, modified=info.mtime_ns or 0)


@dataclass(frozen=True, order=True)
class Location:
    """A file or folder somewhere; make one with `Location.of`. Holds text alone, so it can be sent to any worker."""

    uri: str
    """An absolute local path, or `s3://bucket/key`, `gs://bucket/key`, `az://container/key`; never ends in `/`."""

    @classmethod
    def of(cls, where: str | os.PathLike[str] | Location) -> Location:
        """The location that a user's path or URI names.

        Raises:
            UserError: an unknown scheme, an object store without a bucket, or what names no place at all.
        """
        return where if isinstance(where, Location) else cls(read_address(os.fspath(where)))

    def __str__(self) -> str:
        return self.uri

    def __truediv__(self, part: str) -> Location:
        return Location(f"{self.uri.rstrip('/')}/{part.strip('/')}") if part.strip("/") else self

    @property
    def scheme(self) -> str:
        """`file`, `s3`, `gs` or `az`."""
        return self.uri.split("://", 1)[0] if "://" in self.uri else "file"

    @property
    def name(self) -> str:
        """The last part."""
        return self.uri.rsplit("/", 1)[-1]

    @property
    def parent(self) -> Location:
        """The folder it stands in; a bucket or the root is its own parent."""
        head = self.uri.rsplit("/", 1)[0]
        return self if head.endswith("/") else Location(head or "/")

    @property
    def path(self) -> str:
        """What `filesystem` calls it: `bucket/key`, or the local path."""
        return self.uri.split("://", 1)[-1]

    @property
    def filesystem(self) -> pafs.FileSystem:
        """The pyarrow file system that serves it.

        Raises:
            UserError: the store refuses the credentials, or has no such bucket.
        """
        if self.scheme == "file":
            return pafs.LocalFileSystem()
        with explain_failure(str(self), "open"):
            return open_store(self.scheme, self.path.split("/", 1)[0])

    def local_path(self) -> Path | None:
        """Its path where it is on a local disk, else None."""
        return Path(self.uri) if self.scheme == "file" else None

    def read_bytes(self) -> bytes:
        """The whole file.

        An object store is asked for the size first and then for so many bytes: where the object was replaced between
        the two, it is read again.

        Raises:
            MissingError: there is no such file.
        """
        for _ in range(READ_TRIES):
            with self.open_input() as stream, explain_failure(str(self), "read"):
                content = bytes(stream.read())
            if self.scheme == "file" or len(content) == self.measure_bytes():
                break
        return content

    def read_text(self) -> str:
        """The whole file as UTF-8."""
        return self.read_bytes().decode()

    def write_bytes(self, content: bytes) -> None:
        """Replace the file atomically; missing folders are made."""
        if self.local_path() is None:
            self._put(content)
            return
        with self._replacing() as stream:
            stream.write(content)

    def write_text(self, content: str) -> None:
        """Replace the file atomically with UTF-8 text."""
        self.write_bytes(content.encode())

    def open_output(self) -> contextlib.AbstractContextManager[Stream]:
        """A stream whose bytes replace the file atomically when the block ends well, and vanish when it does not."""
        return self._replacing()

    def open_input(self) -> pa.NativeFile:
        """A seekable binary stream for reading; close it.

        Raises:
            MissingError: there is no such file.
        """
        with explain_failure(str(self), "read"):
            return self.filesystem.open_input_file(self.path)

    def iterate_chunks(self, start: int = 0) -> Iterator[bytes]:
        """The file's bytes from `start` on, in chunks.

        Raises:
            MissingError: there is no such file.
        """
        with self.open_input() as stream, explain_failure(str(self), "read"):
            stream.seek(start)
            while chunk := stream.read(CHUNK_BYTES):
                yield bytes(chunk)

    def exists(self) -> bool:
        """Whether there is a file or a folder here."""
        return bool(self._info().type != pafs.FileType.NotFound)

    def is_file(self) -> bool:
        """Whether there is a file here."""
        return bool(self._info().type == pafs.FileType.File)

    def measure_bytes(self) -> int:
        """Size of the file.

        Raises:
            MissingError: there is no such file.
        """
        return self.describe().size

    def describe(self) -> Entry:
        """The file under its own name.

        Raises:
            MissingError: there is no such file.
        """
        info = self._info()
        if info.type != pafs.FileType.File:
            raise MissingError(f"there is no file at {self}")
        return Entry.of(info, self.name)

    def list_entries(self, recursive: bool = False) -> list[Entry]:
        """Files and folders below this folder, sorted by name; none where it does not exist.

        Raises:
            UserError: it cannot be listed, or a name in it is not UTF-8.
        """
        chosen = pafs.FileSelector(self.path, allow_not_found=True, recursive=recursive)
        with explain_failure(str(self), "list"):
            found = self.filesystem.get_file_info(chosen)
        start = len(self.path.rstrip("/")) + 1
        entries = (Entry.of(info, info.path[start:]) for info in found)
        try:
            return sorted(entries, key=lambda entry: entry.name)
        except UnicodeDecodeError as error:
            name = repr(error.object[len(self.path.rstrip("/").encode()) + 1 :]).removeprefix("b")
            raise StorageError(f"{self} holds {name}, a name that is not UTF-8: rename it, or move it away") from None

    def delete(self) -> None:
        """Remove the file, or the folder with all it holds; nothing happens where there is neither."""
        kind = self._info().type
        with explain_failure(str(self), "delete"), contextlib.suppress(FileNotFoundError):
            if kind == pafs.FileType.Directory:
                self.filesystem.delete_dir(self.path)
            elif kind != pafs.FileType.NotFound:
                self.filesystem.delete_file(self.path)

    def compute_sha256(self) -> str:
        """Hex digest of the file as it is stored, read in chunks."""
        with self.open_input() as stream, explain_failure(str(self), "read"):
            return hash_stream(stream)

    def upload(self, source: Path) -> str:
        """Put a local file here, atomically; returns the sha256 (hex) of the bytes that were sent."""
        digest = hashlib.sha256()
        with source.open("rb") as stream, self._replacing() as target:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
                target.write(chunk)
        return digest.hexdigest()

    def copy_to(
        self, target: Path, expected_sha256: str | None = None, note: Callable[[int], object] = lambda size: None
    ) -> str:
        """Download the file to `target`; an interrupted download continues where it ended. Returns the sha256 (hex).

        The bytes gathered so far wait beside `target`, under a name that changes with the source's size and time. Who
        else downloads the same there is waited for, and the sum is that of the bytes on the disk. `note`: told how many
        bytes are there, again and again.

        Raises:
            MissingError: there is no such file.
            DamagedError: the bytes do not have `expected_sha256`; nothing is left at `target`.
        """
        with explain_failure(str(target), "write"):
            target.parent.mkdir(parents=True, exist_ok=True)
            with holding(partial := self._name_partial(target)) as sink:
                is_resumed = sink.seek(0, os.SEEK_END) > 0
                actual = self._download(sink, note)
                if is_resumed and expected_sha256 not in (None, actual):
                    sink.truncate(0)
                    actual = self._download(sink, note)
                if expected_sha256 not in (None, actual):
                    partial.unlink()
                    raise DamagedError(
                        f"{self} is damaged: sha256 is {actual}, expected {expected_sha256}; fetch it again or use "
                        "another"
                    )
                partial.replace(target)
        return actual

    def _name_partial(self, target: Path) -> Path:
        entry = self.describe()
        version = hashlib.sha256(f"{self} {entry.size} {entry.modified}".encode()).hexdigest()[:12]
        return target.with_name(f".{target.name}.{version}.part")

    def _download(self, sink: io.BufferedRandom, note: Callable[[int], object]) -> str:
        """Append what is missing; returns the sha256 (hex) of what then lies on the disk."""
        for chunk in self.iterate_chunks(sink.seek(0, os.SEEK_END)):
            sink.write(chunk)
            note(sink.tell())
        sink.flush()
        os.fsync(sink.fileno())
        sink.seek(0)
        return hash_stream(sink)

    def _info(self) -> pafs.FileInfo:
        with explain_failure(str(self), "look up"):
            return self.filesystem.get_file_info(self.path)

    @contextlib.contextmanager
    def _replacing(self) -> Iterator[Stream]:
        local = self.local_path()
        with explain_failure(str(self), "write"):
            if local is not None:
                with replacing(local) as stream:
                    yield stream
            else:
                with self._replacing_object() as stream:
                    yield stream

    def _put(self, content: bytes) -> None:
        """Replace an object. Who is interrupted still sends all of it: an upload that has begun can only be ended."""
        with explain_failure(str(self), "write"):
            stream = self.filesystem.open_output_stream(self.path)
            try:
                stream.write(content)
            finally:
                if not stream.tell():
                    with contextlib.suppress(OSError):
                        stream.write(content)
                stream.close()

    @contextlib.contextmanager
    def _replacing_object(self) -> Iterator[Stream]:
        stream = self.filesystem.open_output_stream(self.path)
        try:
            yield stream
        except BaseException:
            with contextlib.suppress(OSError):
                # Ending it publishes what had been written so far. A store that refuses has kept what was there before.
                stream.close()
                self.filesystem.delete_file(self.path)
            raise
        stream.close()


def is_plain_name(name: str) -> bool:
    """Whether a name that a file holds is that of something within a folder, on any system: no path, hidden or not."""
    return bool(name) and not name.startswith(".") and not any(mark in name for mark in "/\\\0")


def check_plain_name(name: str) -> str:
    """The name, where it is plain.

    Raises:
        ValueError: it could lead out of its folder.
    """
    if not is_plain_name(name):
        raise ValueError(f"{name!r} is not a plain file name")
    return name


def hash_stream(stream: Stream) -> str:
    """The sha256 (hex) of what remains of a binary stream, read in chunks."""
    digest = hashlib.sha256()
    while chunk := stream.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()
