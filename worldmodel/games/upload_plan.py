"""What an upload will store: parsed games packed into shards, other files as they are.

The plan is a function of the games' bytes and of what the folder holds already. A shard's name holds a hash of its
games, so equal names mean equal shards; a shard that is there stays as long as none of its games has changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from worldmodel.errors import UserError
from worldmodel.games.manifest import Manifest, StoredObject
from worldmodel.games.source import Rejection, Unit, list_source
from worldmodel.games.tar import end_shard, find_outside, pack_game
from worldmodel.progress import Tell
from worldmodel.storage import Location


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """One object to be stored, and how its bytes are made."""

    name: str
    size: int
    """Bytes."""
    units: tuple[Unit, ...]
    """The games of a shard, or the one file that is sent as it is."""
    games: dict[str, str]
    """Of a shard that is packed here: game to sha256 of its members; empty for a file."""

    def iterate(self) -> Iterator[bytes]:
        """Its bytes, in chunks.

        Raises:
            UserError: the source cannot be read, or has changed since the plan was made.
        """
        if not self.games:
            yield from Location.of(self.units[0].uri).iterate_chunks()
            return
        size = 0
        for unit in self.units:
            members = pack_game(unit)
            size += len(members)
            if hashlib.sha256(members).hexdigest() != self.games[unit.name]:
                raise UserError(f"{unit.uri} changed while it was uploaded: upload again")
            yield members
        yield end_shard(size)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that an upload has to bring about."""

    parcels: list[Parcel]
    """What must be there at the end, by name."""
    others: list[StoredObject]
    """What stays there though the source does not hold all of it."""
    stale: list[str]
    """Shards of which a game has changed: they go, and their games are in new shards."""
    rejected: list[dict[str, str]]
    """What the source names and does not give."""


@dataclass(frozen=True, kw_only=True)
class _Weighed:
    unit: Unit
    size: int
    sha256: str
    """Of its members."""


def plan_upload(source: str, known: Manifest, shard_bytes: float, threads: int, progress: Tell) -> Plan:
    """Read every game once, and decide what is stored in which object.

    Raises:
        UserError: there is nothing that can be uploaded.
    """
    listing = list_source(source, training_only=False)
    rejected = [asdict(rejection) for rejection in listing.rejected]
    if any(unit.kind != "parsed" for unit in listing.units):
        _check_links(listing.units, Location.of(source))
        files = [Parcel(name=u.name, size=u.bytes, units=(u,), games={}) for u in listing.units]
        names = {parcel.name for parcel in files}
        others = [stored for stored in known.objects if stored.name not in names]
        return Plan(parcels=files, others=others, stale=[], rejected=rejected)
    weighed = []
    for found in _weigh(listing.units, threads, progress):
        if isinstance(found, _Weighed):
            weighed.append(found)
        else:
            rejected.append(asdict(found))
    if not weighed:
        raise UserError(f"no game of {source} can be read, the first because: {rejected[0]['reason']}")
    kept, others, stale = _divide(known, {game.unit.name: game for game in weighed})
    settled = {name for parcel in kept for name in parcel.games} | {name for other in others for name in other.games}
    new = _pack([game for game in weighed if game.unit.name not in settled], shard_bytes, _next_number(known))
    return Plan(parcels=sorted([*kept, *new], key=lambda p: p.name), others=others, stale=stale, rejected=rejected)


def _check_links(files: list[Unit], source: Location) -> None:
    for unit in files:
        if outside := find_outside(unit.uri, source):
            raise UserError(f"{unit.uri} leads to {outside}, outside {source}: copy the file there, or delete the link")


def _weigh(units: list[Unit], threads: int, progress: Tell) -> Iterator[_Weighed | Rejection]:
    done, whole = 0, sum(unit.bytes for unit in units)
    with ThreadPoolExecutor(threads) as pool:
        for unit, found in zip(units, pool.map(_weigh_game, units), strict=True):
            done += unit.bytes
            progress("reading", done, whole)
            yield found


def _weigh_game(unit: Unit) -> _Weighed | Rejection:
    try:
        members = pack_game(unit)
    except (OSError, UserError) as error:
        return Rejection(file=f"games/{unit.name}", reason=f"cannot be read: {error}")
    return _Weighed(unit=unit, size=len(members), sha256=hashlib.sha256(members).hexdigest())


Divided = tuple[list[Parcel], list[StoredObject], list[str]]
"""What the source can give again, what stays although it cannot, and what goes."""


def _divide(known: Manifest, games: dict[str, _Weighed]) -> Divided:
    kept, others, stale = list[Parcel](), list[StoredObject](), list[str]()
    for stored in known.objects:
        changed = [name for name, sha256 in stored.games.items() if name in games and games[name].sha256 != sha256]
        absent = [name for name in stored.games if name not in games]
        if changed and absent:
            raise UserError(
                f"game {changed[0]} has changed, and the shard that holds it ({stored.name}) also holds {absent[0]}, "
                "which is not in this folder: upload from a folder that has both, or into a new one"
            )
        if changed:
            stale.append(stored.name)
        elif absent or not stored.games:
            others.append(stored)
        else:
            units = tuple(games[name].unit for name in stored.games)
            kept.append(Parcel(name=stored.name, size=stored.size, units=units, games=stored.games))
    return kept, others, stale


def _pack(games: Sequence[_Weighed], shard_bytes: float, number: int) -> list[Parcel]:
    """The games in shards of about `shard_bytes`, in their order, named from `number` on."""
    found: list[Parcel] = []
    inside, size = list[_Weighed](), 0
    for game in games:
        inside.append(game)
        size += game.size
        if size >= shard_bytes:
            found.append(_make_shard(inside, number + len(found)))
            inside, size = [], 0
    return [*found, _make_shard(inside, number + len(found))] if inside else found


def _make_shard(inside: Sequence[_Weighed], number: int) -> Parcel:
    size = sum(game.size for game in inside)
    content = hashlib.sha256("".join(game.sha256 for game in inside).encode()).hexdigest()
    return Parcel(
        name=f"shard-{number:06d}-{content[:16]}.tar",
        size=size + len(end_shard(size)),
        units=tuple(game.unit for game in inside),
        games={game.unit.name: game.sha256 for game in inside},
    )


def _next_number(known: Manifest) -> int:
    numbers = [int(stored.name.split("-")[1]) for stored in known.objects if stored.games]
    return max(numbers, default=-1) + 1
