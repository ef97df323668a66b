"""Bringing games to an object store: packed on the way, in parallel, checked, and continued where it was interrupted.

1. Every game is read and hashed, and the plan is made (`upload_plan.py`).
2. What is there already, whole, is left alone: its size and the store's own tag must be those of the manifest, or its
   bytes those that would be sent.
3. The rest is sent; the store is asked, or the bytes are read back, whether it holds what was sent.
4. The manifest is written, and replaced shards go. Until then a mark in the folder keeps readers out.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from worldmodel.errors import UserError
from worldmodel.games.manifest import MANIFEST, Manifest, Mark, StoredObject, read_manifest, read_mark
from worldmodel.games.source import META, UNFINISHED
from worldmodel.games.upload_plan import Parcel, Plan, plan_upload
from worldmodel.object_store import DamagedError
from worldmodel.object_upload import PARTS_AT_ONCE, compute_digest, look_up, send_object
from worldmodel.progress import Tell, say_nothing
from worldmodel.storage import Location

BLOCKS = "index.json"
"""What names the games of a folder of blocks (`blocks/index.py`)."""
SEND_TRIES = 3
"""Times that an object is sent whose stored bytes differ from what was sent."""
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True)
class UploadOptions:
    """How to upload."""

    shard_mb: float = 200.0
    """Size of a shard in megabytes."""
    threads: int = 16
    """Requests under way at once."""
    read_back: bool = False
    """Read what is there already, and compare its sha256; without, size and the store's own tag must do."""


@dataclass(frozen=True, kw_only=True)
class UploadSummary:
    """What an upload did."""

    objects: int
    """Objects that the folder holds now; the manifest names them."""
    games: int
    """Games in the shards that were packed on the way."""
    bytes: int
    sent: int
    """Objects sent now."""
    sent_bytes: int
    skipped: int
    """Objects that were there already, whole."""
    damaged: list[str]
    """Objects that were there with other bytes than they should have; they were sent again."""
    replaced: list[str]
    """Shards that went because a game of theirs has changed."""
    others: int
    """Objects of earlier uploads that hold games which the source does not have; they stay."""
    gone: list[str]
    """Such objects that are no longer there."""
    rejected: list[dict[str, str]]
    """What the source names and does not give."""
    seconds: float
    manifest: str


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What stands at a parcel's place."""

    state: Literal["there", "absent", "damaged", "foreign"]
    stored: StoredObject | None = None
    """Of an object that is there, whole."""


@dataclass(kw_only=True)
class _Tally:
    """Bytes done by all threads, and whether they shall stop."""

    whole: int
    progress: Tell
    done: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def watch(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            if self.stop.is_set():
                raise InterruptedError("another object could not be sent")
            yield chunk
            with self.lock:
                self.done += len(chunk)
                self.progress("sending", min(self.done, self.whole), self.whole)


def upload_games(
    source: str, out: str, options: UploadOptions | None = None, tell: Tell = say_nothing
) -> UploadSummary:
    """Bring the games of `source` into the folder `out`, which may hold an earlier upload, whole or cut off.

    Raises:
        UserError: it cannot be done, or the folder holds something else.
    """
    options, started = options or UploadOptions(), time.monotonic()
    target = Location.of(out)
    if not 0 < options.shard_mb < math.inf or options.threads < 1:
        raise UserError(f"shards of {options.shard_mb} MB, {options.threads} threads: expected more than 0 of both")
    known, mark = _open_folder(target, Location.of(source))
    plan = plan_upload(source, known, options.shard_mb * 1e6, options.threads, tell)
    found = _look_around(target, source, plan, known, mark, options)
    todo = [parcel for parcel in plan.parcels if found[parcel.name].state != "there"]
    leftovers = sorted({*plan.stale, *mark.objects} - found.keys())
    if todo or leftovers:
        names = {*mark.objects, *plan.stale, *(parcel.name for parcel in todo)}
        mark = Mark(source=source, objects=sorted(names))
        (target / UNFINISHED).write_text(mark.model_dump_json(indent=1))
    sent = _send_all(target, todo, options, tell)
    there = [stored for stored in (entry.stored for entry in found.values()) if stored]
    objects = sorted([*there, *sent], key=lambda stored: stored.name)
    gone = [other.name for other in plan.others if found[other.name].state == "absent"]
    _finish(target, known, Manifest(objects=objects, rejected=plan.rejected), mark, leftovers)
    return UploadSummary(
        objects=len(objects),
        games=sum(len(stored.games) for stored in objects),
        bytes=sum(stored.size for stored in objects),
        sent=len(sent),
        sent_bytes=sum(stored.size for stored in sent),
        skipped=len(plan.parcels) - len(sent),
        damaged=[name for name, entry in found.items() if entry.state == "damaged"],
        replaced=plan.stale,
        others=len(plan.others) - len(gone),
        gone=gone,
        rejected=plan.rejected,
        seconds=round(time.monotonic() - started, 2),
        manifest=str(target / MANIFEST),
    )


def _open_folder(target: Location, source: Location) -> tuple[Manifest, Mark]:
    """What earlier uploads left in the folder. UserError where it holds anything else."""
    if target == source:
        raise UserError(f"{target} is named as source and as output: name another folder")
    if target.is_file():
        raise UserError(f"{target} is a file: name a folder")
    known, mark = read_manifest(target) or Manifest(), read_mark(target) or Mark()
    ours = {*(stored.name for stored in known.objects), *mark.objects}
    # A file that this upload would store itself may lie there already; whether it is the same is seen later.
    ours |= {entry.name for entry in _folder_of(source).list_entries()} - {META, BLOCKS}
    games = [e.name for e in target.list_entries() if e.name.endswith((".tar", ".pt", META, BLOCKS))]
    strange = [name for name in games if name not in ours]
    if strange:
        raise UserError(f"{target} holds {strange[0]}, which no upload put there: name another folder")
    return known, mark


def _folder_of(source: Location) -> Location:
    return source.parent if source.name.endswith((".tar", ".pt")) else source


def _look_around(
    target: Location, source: str, plan: Plan, known: Manifest, mark: Mark, options: UploadOptions
) -> dict[str, _Found]:
    """What stands where the plan's objects belong, by name; UserError where something else stands there."""
    stored = {entry.name: entry for entry in known.objects}

    def look(name: str, parcel: Parcel | None) -> _Found:
        return _inspect(target / name, parcel, stored.get(name), name in mark.objects, options.read_back)

    jobs = [(parcel.name, parcel) for parcel in plan.parcels] + [(other.name, None) for other in plan.others]
    found = run_together(lambda job: look(*job), jobs, options.threads)
    by_name = {name: entry for (name, _), entry in zip(jobs, found, strict=True)}
    foreign = [name for name, entry in by_name.items() if entry.state == "foreign"]
    if foreign:
        raise UserError(f"{target / foreign[0]} is there with other bytes, and no upload put it there: delete it first")
    lost = [target / other.name for other in plan.others if by_name[other.name].state == "damaged"]
    if lost:
        raise UserError(
            f"damaged, with games that {source} does not have: {', '.join(map(str, lost))}; upload from the folder "
            "that has them, or delete these objects"
        )
    return by_name


def _inspect(
    place: Location, parcel: Parcel | None, known: StoredObject | None, is_ours: bool, read_back: bool
) -> _Found:
    """What stands at one place. `parcel`: what belongs there, None where the source cannot say."""
    stored = look_up(place)
    if stored is None:
        return _Found(state="absent")
    if known is not None and (parcel is None or parcel.games):
        wanted = known  # a shard's name and its games say what it is
    elif parcel is not None:
        digest = compute_digest(parcel.iterate(), parcel.size)
        wanted = StoredObject(name=parcel.name, games=parcel.games, **vars(digest))
    else:
        return _Found(state="damaged")
    is_same = stored.size == wanted.size and (stored.tag == wanted.tag and not read_back)
    if is_same or (stored.size == wanted.size and place.compute_sha256() == wanted.sha256):
        return _Found(state="there", stored=wanted.model_copy(update={"tag": stored.tag}))
    was_replaced = known is not None and known.sha256 != wanted.sha256 and stored.tag == known.tag
    if was_replaced:
        return _Found(state="absent")  # an earlier upload's, whose source has changed
    return _Found(state="damaged" if known is not None or is_ours else "foreign")


def _send_all(
    target: Location, parcels: Sequence[Parcel], options: UploadOptions, progress: Tell
) -> list[StoredObject]:
    tally = _Tally(whole=sum(parcel.size for parcel in parcels), progress=progress)
    at_once = max(1, options.threads // PARTS_AT_ONCE)
    return run_together(lambda parcel: _send(target / parcel.name, parcel, tally), parcels, at_once, tally.stop)


def _send(place: Location, parcel: Parcel, tally: _Tally) -> StoredObject:
    """Sends an object until the store holds what was sent."""
    for _ in range(SEND_TRIES):
        digest = send_object(place, tally.watch(parcel.iterate()), parcel.size)
        stored = look_up(place)
        if stored is None or stored.size != digest.size:
            continue
        if stored.tag == digest.tag or place.compute_sha256() == digest.sha256:
            return StoredObject(name=parcel.name, games=parcel.games, **{**vars(digest), "tag": stored.tag})
    raise DamagedError(f"{place} was sent {SEND_TRIES} times, and is not what was sent: check the store")


def _finish(target: Location, known: Manifest, manifest: Manifest, mark: Mark, leftovers: Sequence[str]) -> None:
    """Write the manifest where it has changed; then remove what it no longer names, and the mark last.

    UserError where another upload has begun or ended there meanwhile: it may have removed what was sent. The mark then
    stands for both, so that neither ends well and nobody reads what they left.
    """
    found = read_mark(target) or Mark()
    if found != mark:
        if mark.objects:
            both = Mark(source=mark.source, objects=sorted({*mark.objects, *found.objects}))
            (target / UNFINISHED).write_text(both.model_dump_json(indent=1))
        raise UserError(f"another upload worked on {target} at the same time: run this one again when it has ended")
    if manifest != known:
        text = manifest.model_dump_json(indent=1)
        (target / MANIFEST).write_text(text)
        if (target / MANIFEST).read_text() != text:
            raise DamagedError(f"{target / MANIFEST} is not what was written: upload again")
    for name in leftovers:
        (target / name).delete()
    (target / UNFINISHED).delete()


def run_together(
    act: Callable[[Item], Made], items: Sequence[Item], at_once: int, stop: threading.Event | None = None
) -> list[Made]:
    """What `act` makes of each item, in their order; the first failure sets `stop` and ends the others."""
    with ThreadPoolExecutor(at_once) as pool:
        futures = [pool.submit(act, item) for item in items]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            if stop is not None:
                stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]
