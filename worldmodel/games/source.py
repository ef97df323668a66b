"""Where games come from: a parsed folder, tar shards or an encoded `.pt`, on a disk or in an object store.

Listing a source opens no game. What is listed is read in tasks by `read_games`, which yields every game or the reason
why there is none: no game is lost without a word.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

from worldmodel.errors import GameError, UserError
from worldmodel.games.entry import find_unfit
from worldmodel.games.game import Game
from worldmodel.games.leaves import MAX_GAME_BYTES
from worldmodel.games.parsed import read_game
from worldmodel.games.shard import iterate_shard
from worldmodel.storage import Entry, Location, is_plain_name

META = "meta.json"
"""What names the games of a parsed folder."""
FRAME_IDS = "frame_ids"
REPLAY_ENDINGS = (".slp", ".slp.gz")
UNFINISHED = "upload-unfinished.json"
"""Stands in a folder while games are brought there (`upload.py`, `download.py`)."""
_THREADS = 16
"""Requests under way at once: hides an object store's latency."""
_GROUP = 2
"""Games that a thread reads in one go."""


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """One thing that gave no game."""

    file: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What is read at once: a game's file, a tar shard or a `.pt` with many games."""

    kind: Literal["parsed", "tar", "tensors"]
    name: str
    """File name within its source; of a parsed game, its md5."""
    uri: str
    bytes: int
    order: int
    """Place in the source's own order (that of meta.json)."""
    entry: dict[str, object] = field(default_factory=dict)
    frame_ids: str = ""
    """URI of the frame ids, where they are at hand."""
    training_only: bool = True
    """Whether games of a shard that are not for training are left out."""
    modified: int = 0
    """When a shard or `.pt` was last written, in nanoseconds since 1970; 0 where that does not count."""


EXPECTED = "expected a parsed folder (meta.json and games/), tar shards, replays (.slp, .slp.gz) or a .pt file"


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All that a source offers."""

    units: list[Unit]
    rejected: list[Rejection]
    filtered: list[Rejection]
    """Games that are left out on purpose: not for training, or not named in meta.json."""


def is_replay(name: str) -> bool:
    """Whether a file is a replay, by its name."""
    return name.lower().endswith(REPLAY_ENDINGS)


def list_source(source: str, *, training_only: bool = True) -> Listing:
    """List a source. UserError where there is nothing to read."""
    location = Location.of(source)
    if location.name.endswith(".pt"):
        e = location.describe()
        return _of_units(
            [Unit(kind="tensors", name=e.name, uri=str(location), bytes=e.size, order=0, modified=e.modified)]
        )
    if location.name.endswith(".tar"):
        return _list_shards(location.parent, [location.describe()], training_only)
    if location.is_file():
        raise UserError(_refuse_replays(location) if is_replay(location.name) else f"{location} is a file: {EXPECTED}")
    found = location.list_entries()
    names = {entry.name for entry in found}
    if UNFINISHED in names:
        raise UserError(f"{location} is not whole: an upload or a fetch into it has not ended; run that command again")
    shards = [entry for entry in found if entry.name.endswith(".tar") and not entry.is_folder]
    if META in names:
        return _list_parsed(location, names, training_only)
    if shards:
        return _list_shards(location, shards, training_only)
    raise UserError(_nothing_there(location, found))


def _of_units(units: list[Unit]) -> Listing:
    return Listing(units=units, rejected=[], filtered=[])


def _list_shards(folder: Location, shards: list[Entry], training_only: bool) -> Listing:
    return _of_units([
        Unit(kind="tar", name=e.name, uri=str(folder / e.name), bytes=e.size, order=order, training_only=training_only,
             modified=e.modified)
        for order, e in enumerate(shards)
    ])  # fmt: skip


def _nothing_there(location: Location, found: list[Entry]) -> str:
    if not found:
        state = "is empty" if location.exists() else "does not exist"
        return f"{location} {state}: {EXPECTED}"
    if any(entry.name == "games" and entry.is_folder for entry in found):
        return f"{location} has games/ but no meta.json, which names the games: restore it, or parse the replays again"
    if any(is_replay(entry.name) for entry in (*found, *location.list_entries(recursive=True))):
        return _refuse_replays(location)
    names = ", ".join(entry.name for entry in found[:5]) + (", ..." if len(found) > 5 else "")
    return f"no games in {location} (it holds {names}): {EXPECTED}"


def _refuse_replays(location: Location) -> str:
    return (
        f"{location} holds replays, which are no games yet: make games of them with `worldmodel games parse {location} "
        "OUT` and name OUT instead (`worldmodel encode` leaves them in parsed/ beside its blocks)"
    )


def _list_parsed(location: Location, names: set[str], training_only: bool) -> Listing:
    sizes = {e.name: e.size for e in (location / "games").list_entries() if not e.is_folder}
    ids = {e.name for e in (location / FRAME_IDS).list_entries()} if FRAME_IDS in names else set()
    listing = Listing(units=[], rejected=[], filtered=[])
    seen: set[str] = set()
    for order, entry in enumerate(_read_meta(location / META)):
        md5 = entry.get("slp_md5") if isinstance(entry, dict) else None
        reason = _refuse_entry(md5, seen, sizes)
        if reason:
            listing.rejected.append(
                Rejection(file=f"games/{md5}" if md5 else f"meta.json entry {order}", reason=reason)
            )
            continue
        name = str(md5)
        seen.add(name)
        if why := training_only and find_unfit(entry):
            sides = listing.filtered if why.is_on_purpose else listing.rejected
            sides.append(Rejection(file=f"games/{name}", reason=why.reason))
            continue
        ids_uri = str(location / FRAME_IDS / f"{name}.npy") if f"{name}.npy" in ids else ""
        listing.units.append(
            Unit(kind="parsed", name=name, uri=str(location / "games" / name), bytes=sizes[name], order=order,
                 entry=entry, frame_ids=ids_uri)
        )  # fmt: skip
    unnamed = sorted(name for name in sizes.keys() - seen if not name.startswith("."))
    listing.filtered.extend(Rejection(file=f"games/{name}", reason="not named in meta.json") for name in unnamed)
    if not (listing.units or listing.rejected or listing.filtered):
        raise UserError(f"{location / META} names no games")
    return listing


def _read_meta(location: Location) -> list[Any]:
    try:
        entries = json.loads(location.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{location} is not JSON ({error}); expected a list with one entry per game") from error
    if not isinstance(entries, list):
        raise UserError(f"{location} holds a {type(entries).__name__}, expected a list with one entry per game")
    return entries


def _refuse_entry(md5: object, seen: set[str], sizes: dict[str, int]) -> str:
    if not isinstance(md5, str) or not md5:
        return "its entry in meta.json has no slp_md5"
    if not is_plain_name(md5):
        return "its slp_md5 is not a plain file name"
    if md5 in seen:
        return "named twice in meta.json; its first entry is used"
    if md5 not in sizes:
        return "named in meta.json, but there is no such file"
    return ""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One game of a unit, or why there is none."""

    file: str
    """What `rejected.json` calls it."""
    unit: Unit
    game: Game | None = None
    reason: str = ""
    is_filtered: bool = False
    """Left out on purpose (`reason` says why), rather than rejected."""
    place: int = 0
    """Place of the game within its unit."""


def read_games(units: list[Unit]) -> Iterator[Reading]:
    """All games of some units, in their order; files are read ahead in threads, parsed one at a time."""
    loose = [unit for unit in units if unit.kind == "parsed"]
    for unit, fetched in zip(loose, _read_ahead(loose), strict=True):
        yield _parse(unit, *fetched)
    for unit in (unit for unit in units if unit.kind != "parsed"):
        if unit.kind == "tar":
            yield from _read_shard(unit)
        else:
            yield from _read_tensors(unit)


Fetched = tuple[bytes, bytes | None, str]
"""A game's bytes, its frame ids' bytes, and why they could not be read."""


def _read_ahead(units: list[Unit]) -> Iterator[Fetched]:
    """What is stored of each unit, in order, with `_THREADS` requests under way."""
    groups = [units[first : first + _GROUP] for first in range(0, len(units), _GROUP)]
    with ThreadPoolExecutor(_THREADS) as pool:
        waiting = deque(pool.submit(_fetch_all, group) for group in groups[:_THREADS])
        following = iter(groups[_THREADS:])
        while waiting:
            fetched = waiting.popleft().result()
            waiting.extend(pool.submit(_fetch_all, group) for group in islice(following, 1))
            yield from fetched


def _fetch_all(units: list[Unit]) -> list[Fetched]:
    return [_fetch(unit) for unit in units]


def _fetch(unit: Unit) -> Fetched:
    if unit.bytes > MAX_GAME_BYTES:
        return b"", None, f"{unit.bytes} bytes: no game is that long"
    try:
        return _read(unit.uri), _read(unit.frame_ids) if unit.frame_ids else None, ""
    except FileNotFoundError as error:
        return b"", None, f"cannot be read: there is no file at {error.filename}"
    except (OSError, UserError) as error:
        return b"", None, f"cannot be read: {error}"


def _read(uri: str) -> bytes:
    """A whole file; one that is replaced meanwhile shows as damaged, so an object store is not asked again."""
    location = Location.of(uri)
    path = location.local_path()
    if path is not None:
        return path.read_bytes()
    with location.open_input() as stream:
        return bytes(stream.read())


def _parse(unit: Unit, data: bytes, ids: bytes | None, failure: str) -> Reading:
    name = f"games/{unit.name}"
    if failure:
        return Reading(file=name, unit=unit, reason=failure)
    try:
        return Reading(file=name, unit=unit, game=read_game(data, unit.name, unit.entry, ids))
    except GameError as error:
        return Reading(file=name, unit=unit, reason=str(error))


def _read_shard(unit: Unit) -> Iterator[Reading]:
    for place, member in enumerate(iterate_shard(Location.of(unit.uri))):
        name = f"{unit.name}/{member.name}"
        if member.reason:
            yield Reading(file=name if member.name else unit.name, unit=unit, reason=member.reason)
        elif why := unit.training_only and find_unfit(member.entry):
            yield Reading(file=name, unit=unit, reason=why.reason, is_filtered=why.is_on_purpose)
        else:
            try:
                game = read_game(member.data, member.name, member.entry, member.frame_ids)
            except GameError as error:
                yield Reading(file=name, unit=unit, reason=str(error))
            else:
                yield Reading(file=name, unit=unit, game=game, place=place)


def _read_tensors(unit: Unit) -> Iterator[Reading]:
    from worldmodel.games.tensors import iterate_tensors  # torch, which no other source needs

    for place, game in enumerate(iterate_tensors(Location.of(unit.uri))):
        name = f"{unit.name}/game {place}"
        if isinstance(game, GameError):
            yield Reading(file=name, unit=unit, reason=str(game))
        else:
            yield Reading(file=name, unit=unit, game=game, place=place)
