"""Bringing uploaded games here: every object verified by its sha256; a download that broke off goes on where it was."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from worldmodel.errors import UserError
from worldmodel.games.manifest import MANIFEST, Manifest, Mark, StoredObject, read_manifest, read_mark
from worldmodel.games.output import LOCK, writing_alone
from worldmodel.games.source import UNFINISHED
from worldmodel.games.upload import run_together
from worldmodel.object_store import DamagedError, DiskError, MissingError, StorageError, explain_failure
from worldmodel.progress import Tell, say_nothing
from worldmodel.storage import Location

TRIES = 5
"""Times that an object is asked for whose connection breaks."""
THREADS = 8


@dataclass(frozen=True, kw_only=True)
class FetchSummary:
    """What a fetch of games did."""

    objects: int
    games: int
    bytes: int
    fetched: int
    """Objects that were brought now; the others were here already, whole."""
    fetched_bytes: int
    removed: list[str]
    """Objects of an earlier fetch that the upload has replaced."""
    verified: bool
    seconds: float
    out: str


def is_upload(location: Location) -> bool:
    """Whether an upload has been here, finished or not."""
    return any((location / name).is_file() for name in (MANIFEST, UNFINISHED))


def fetch_games(source: Location, target: Path, tell: Tell = say_nothing) -> FetchSummary:
    """Copy what an upload stored into a local folder, which may hold an earlier copy, whole or cut off.

    Raises:
        UserError: the upload has not ended, an object is damaged, or the folder holds something else, or is being
            written by another process.
    """
    _check_place(source, target)
    manifest = _read_source(source)
    with explain_failure(str(target), "write"), writing_alone(Location.of(target)):
        return _bring_all(source, target, manifest, tell)


def _bring_all(source: Location, target: Path, manifest: Manifest, tell: Tell) -> FetchSummary:
    started, here = time.monotonic(), Location.of(target)
    earlier = _list_earlier(target, manifest)
    todo = [stored for stored in manifest.objects if not _is_here(target, stored)]
    whole, lock, arrived = sum(stored.size for stored in todo), threading.Lock(), dict[str, int]()

    def bring(stored: StoredObject) -> None:
        def note(size: int) -> None:
            with lock:
                arrived[stored.name] = size
                tell("fetching", sum(arrived.values()), whole)

        _fetch(source / stored.name, target / stored.name, stored.sha256, note)

    mark = Mark(source=str(source), objects=sorted({*earlier, *(stored.name for stored in manifest.objects)}))
    (here / UNFINISHED).write_text(mark.model_dump_json())
    run_together(bring, todo, THREADS)
    removed = sorted(earlier - {stored.name for stored in manifest.objects})
    for name in removed:
        (target / name).unlink(missing_ok=True)
    (here / MANIFEST).write_text(manifest.model_dump_json(indent=1))
    (here / UNFINISHED).delete()
    return FetchSummary(
        objects=len(manifest.objects), games=sum(len(stored.games) for stored in manifest.objects),
        bytes=sum(stored.size for stored in manifest.objects), fetched=len(todo), fetched_bytes=whole, removed=removed,
        verified=True, seconds=round(time.monotonic() - started, 2), out=str(target),
    )  # fmt: skip


def _read_source(source: Location) -> Manifest:
    if read_mark(source) is not None:
        raise UserError(f"the upload to {source} has not ended: run it again first")
    manifest = read_manifest(source)
    if manifest is None:
        raise UserError(f"{source} has no {MANIFEST}, which names what an upload stored")
    return manifest


def _check_place(source: Location, target: Path) -> None:
    if source.local_path() == target.absolute():
        raise UserError(f"{target} is the upload itself: name another folder")
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is a file: name a folder")


def _list_earlier(target: Path, manifest: Manifest) -> set[str]:
    """Names that an earlier fetch may have left in the folder. UserError where it holds anything else."""
    here = Location.of(target)
    known, mark = read_manifest(here) or Manifest(), read_mark(here) or Mark()
    earlier = {*mark.objects, *(stored.name for stored in known.objects)}
    ours = {MANIFEST, UNFINISHED, LOCK, *earlier, *(stored.name for stored in manifest.objects)}
    there = [path.name for path in target.iterdir()]
    strange = [name for name in there if name not in ours and not name.endswith((".part", ".tmp"))]
    if strange:
        raise UserError(f"{target} holds other things ({strange[0]}): name a new folder")
    return earlier


def _is_here(target: Path, stored: StoredObject) -> bool:
    path = target / stored.name
    is_same_size = path.is_file() and path.stat().st_size == stored.size
    return is_same_size and Location.of(path).compute_sha256() == stored.sha256


def _fetch(source: Location, target: Path, sha256: str, note: Callable[[int], None]) -> None:
    for pause in (*(2.0**n / 2 for n in range(TRIES - 1)), None):
        try:
            source.copy_to(target, expected_sha256=sha256, note=note)
            return
        except (MissingError, DamagedError, DiskError):
            raise
        except StorageError:  # the connection broke: what came stays beside the target
            if pause is None:
                raise
            time.sleep(pause)
