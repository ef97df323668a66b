"""The files of a checkpoint: which there are, their checksums, and how they get to their place whole.

Nothing counts before its manifest is there, and the manifest is written when every other file was read back from where
it lies and had the sha256 of the bytes in memory.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from worldmodel.errors import UserError
from worldmodel.object_store import DamagedError, DiskError, MissingError, StorageError, explain_failure
from worldmodel.progress import Tell, say_nothing
from worldmodel.storage import Location

FORMAT = 1
"""Version of a checkpoint's layout; any other one is refused."""
WEIGHTS, OPTIMIZER, STATE, MANIFEST = "weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"
FILES = (WEIGHTS, OPTIMIZER, STATE)
"""What a manifest lists: exactly these, so that none of its names can lead out of the folder."""
LEFTOVER = ".writing-"
"""What the name of a checkpoint under way begins with."""

TRIES = 4
"""Downloads that end one after another without a new byte before it is given up."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CheckpointError(UserError):
    """A checkpoint that is damaged or absent; the message names the file and what to do."""


class ForeignCheckpointError(CheckpointError):
    """A sound checkpoint that is not this run's or not of this version: an older one is no way around it."""


def _check_name(name: str) -> str:
    if name not in FILES:
        raise ValueError(f"{name!r} is no file of a checkpoint")
    return name


FileName = Annotated[str, AfterValidator(_check_name)]


class FileEntry(BaseModel):
    """What a manifest says of one file."""

    model_config = ConfigDict(frozen=True, strict=True)

    bytes: int
    sha256: Sha256


class Manifest(BaseModel):
    """Content of `manifest.json`."""

    model_config = ConfigDict(frozen=True, strict=True)

    format: int = FORMAT
    files: dict[FileName, FileEntry]

    @property
    def sha256(self) -> str:
        """64 hex digits that name the bytes of all its files."""
        text = "\n".join(f"{name} {self.files[name].sha256}" for name in sorted(self.files))
        return hashlib.sha256(text.encode()).hexdigest()


class _Version(BaseModel):
    """What a manifest of any version has."""

    format: int


def read_manifest(location: Location) -> Manifest:
    """The manifest of a checkpoint.

    Raises:
        CheckpointError: there is no manifest, so no checkpoint; or it is damaged.
        ForeignCheckpointError: it is of another format.
    """
    try:
        content = (location / MANIFEST).read_bytes()
    except MissingError as error:
        raise CheckpointError(f"{location} is no checkpoint: {error}") from error
    try:
        version = _Version.model_validate_json(content, strict=True).format
        if version != FORMAT:
            hint = "update it" if version > FORMAT else "it was written by something else"
            raise ForeignCheckpointError(
                f"{location} has format {version}, but this version of worldmodel reads format {FORMAT}: {hint}"
            )
        found = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise CheckpointError(
            f"{location / MANIFEST} is damaged ({_describe(error)}); use an older checkpoint"
        ) from error
    if missing := [name for name in FILES if name not in found.files]:
        raise CheckpointError(f"{location}: the manifest lists no {missing[0]}; use an older checkpoint")
    return found


def read_verified(location: Location, entry: FileEntry) -> bytes:
    """A file of a checkpoint, if it has the manifest's bytes.

    Raises:
        CheckpointError: it is gone or damaged, or a local disk cannot read it.
        StorageError: a store did not answer, which says nothing of the file.
    """
    try:
        content = location.read_bytes()
    except StorageError as error:
        if location.local_path() is None and not isinstance(error, MissingError):
            raise
        raise CheckpointError(f"{location.parent} is damaged: {error}; use an older checkpoint") from error
    found = hashlib.sha256(content).hexdigest()
    if found != entry.sha256:
        raise CheckpointError(
            f"{location} is damaged: sha256 {found} ({len(content)} bytes), expected {entry.sha256} "
            f"({entry.bytes} bytes); use an older checkpoint"
        )
    return content


def write_files(target: Location, content: Mapping[str, bytes]) -> Manifest:
    """Makes `content` (a value for each of `FILES`) the checkpoint at `target`, after reading back all of it.

    It takes the place of one that is there. Whatever interrupts this leaves none, or the older one.

    Raises:
        StorageError: the folder cannot be written, or what was read back was not what had been written.
    """
    entries = {n: FileEntry(bytes=len(c), sha256=hashlib.sha256(c).hexdigest()) for n, c in content.items()}
    manifest = Manifest.model_validate({"files": entries})
    files = {**{name: content[name] for name in FILES}, MANIFEST: manifest.model_dump_json(indent=1).encode()}
    local = target.local_path()
    if local is None:
        _upload(target, files)
    else:
        with explain_failure(str(target), "write"):
            _write_locally(local, files)
    return manifest


def read_expected(location: Location, sha256: str | None) -> Manifest:
    """The manifest of a checkpoint that must be the one that is known from elsewhere (None: any).

    A manifest proves that bytes are those that were saved with it. Whoever can write the folder can replace both.
    """
    manifest = read_manifest(location)
    if sha256 not in (None, manifest.sha256):
        raise CheckpointError(
            f"{location} is not the checkpoint that is expected: its sha256 is {manifest.sha256}, expected {sha256}; "
            "it was replaced, or another checkpoint was meant"
        )
    return manifest


def fetch_checkpoint(
    location: Location, target: Path, sha256: str | None = None, tell: Tell = say_nothing
) -> list[Path]:
    """Downloads a checkpoint into a local folder and verifies it; an interrupted download continues. Returns its files.

    Raises:
        CheckpointError: there is none, it is not the one with `sha256`, or its bytes are not those that were saved.
    """
    manifest = read_expected(location, sha256)
    here, whole = 0, sum(entry.bytes for entry in manifest.files.values())
    for name, entry in manifest.files.items():
        if not _has_sha256(target / name, entry.sha256):

            def note(size: int, here: int = here) -> None:
                tell("fetching", here + size, whole)

            _download(location / name, target / name, entry.sha256, note)
        here += entry.bytes
    Location.of(target / MANIFEST).write_bytes(manifest.model_dump_json(indent=1).encode())
    return [target / name for name in (*manifest.files, MANIFEST)]


def _download(source: Location, target: Path, sha256: str, note: Callable[[int], None]) -> None:
    """Goes on after a connection that broke, for as long as tries bring more bytes."""
    gathered, in_vain = 0, 0
    while True:
        try:
            source.copy_to(target, expected_sha256=sha256, note=note)
            return
        except (MissingError, DamagedError, DiskError):
            raise
        except StorageError:
            there = sum(path.stat().st_size for path in target.parent.glob(f".{target.name}.*.part"))
            in_vain = 0 if there > gathered else in_vain + 1
            if in_vain == TRIES:
                raise
            gathered = there


def _write_locally(target: Path, files: Mapping[str, bytes]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=LEFTOVER, dir=target.parent))
    replaced = temporary.with_suffix(".old")
    try:
        for name, content in files.items():
            write_through(temporary / name, content)
            _compare(Location.of(temporary / name), content)
        sync_folder(temporary)
        if target.exists():
            target.rename(replaced)
        temporary.chmod(0o755)
        temporary.rename(target)
        sync_folder(target.parent)
    finally:
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        for folder in (temporary, replaced):
            shutil.rmtree(folder, ignore_errors=True)


def _upload(target: Location, files: Mapping[str, bytes]) -> None:
    (target / MANIFEST).delete()
    try:
        for name, content in files.items():
            (target / name).write_bytes(content)
            _compare(target / name, content)
    except BaseException:
        with suppress(StorageError):
            (target / MANIFEST).delete()
        raise


def _compare(location: Location, content: bytes) -> None:
    """StorageError where a file that was just written does not have these bytes."""
    expected, found = hashlib.sha256(content).hexdigest(), location.compute_sha256()
    if found != expected:
        raise StorageError(f"{location}: the store returned sha256 {found} for {expected}; it is not kept")


def write_through(path: Path, content: bytes) -> None:
    """Writes a local file to the disk itself, so that reading it back does not only read memory."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sync_folder(path: Path) -> None:
    """Makes a folder's names survive a crash of the machine."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _has_sha256(path: Path, expected: str) -> bool:
    return path.is_file() and Location.of(path).compute_sha256() == expected


def _describe(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}".strip(": ")
