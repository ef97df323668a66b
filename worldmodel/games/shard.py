"""Tar shards (the WebDataset convention): parsed games packed for sequential reading from an object store.

A sample is the members that share a name up to its first dot: `<md5>.game` (the parsed file's bytes, unchanged),
`<md5>.json` (its entry of meta.json) and, where known, `<md5>.frame_ids.npy`. A shard from elsewhere may name the game
as it likes: any member that is neither .json nor .npy is the game. What macOS adds to an archive is passed over. The
members of a game may stand apart.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from worldmodel.errors import GameError, UserError
from worldmodel.games.leaves import MAX_GAME_BYTES
from worldmodel.storage import CHUNK_BYTES, Location, is_plain_name

_END_BYTES = 1024
_MOST_ENTRY_BYTES = 1 << 20
"""What meta.json says of one game takes some hundred bytes; as values in memory JSON takes ten times its length."""
_READ_BYTES = 1 << 16
"""Bytes that tarfile takes at a time: it copies what is left of them at every read."""
_HELD_BYTES = 1 << 30
"""Games that wait for more of their members take at most so much; the oldest go on as they are then."""
_LATE = "a member of it stands so far from the others that they were read without it (`worldmodel games pack` sorts)"
_PARSED_FOLDER = re.compile(r"(^|/)(meta\.json|games/[^/.]+|frame_ids/[^/]+\.npy)$")
"""Names of what a parsed folder holds, where one is put into a tar as it is."""
_UNPACKED = (
    "a parsed folder in a tar; unpack it, and make shards of it with `worldmodel games pack`: it holds {name}, and "
    "from front to back nobody knows what its meta.json says of a game"
)
_FOLLOWED = (
    "after {count} games, at byte {place}, the shard goes on with what is no part of it: a damaged header, or another "
    "tar that was joined to it (`worldmodel games pack` makes shards of games)"
)
GAME, ENTRY, IDS = "game", "json", "frame_ids.npy"


@dataclass(kw_only=True)
class Member:
    """One game of a shard, or the reason why there is none (`name` empty where the shard itself is damaged)."""

    name: str
    data: bytes = b""
    entry: dict[str, object] = field(default_factory=dict)
    frame_ids: bytes | None = None
    reason: str = ""


def iterate_shard(location: Location) -> Iterator[Member]:
    """The games of a shard, in its order, read once from front to back; a cut shard ends with the reason."""
    waiting = _Waiting()
    for count, member in enumerate(_read_shard(location, waiting)):
        if not member.name and member.reason:  # of the shard itself: what was read before is whole
            yield from waiting.release()
            member.reason = member.reason.format(count=count + waiting.released)
        yield member
    yield from waiting.release()


def _read_shard(location: Location, waiting: _Waiting) -> Iterator[Member]:
    try:
        with location.open_input() as stream:
            is_whole = _has_end_mark(stream)
            buffered = pa.BufferedInputStream(stream, CHUNK_BYTES)  # few requests to a store
            with tarfile.open(fileobj=buffered, mode="r|", bufsize=_READ_BYTES) as archive:
                yield from _group(archive, stream.size(), waiting)
            is_clean = is_whole and _holds_zeros(stream, archive.offset)
        if not is_whole:
            yield Member(name="", reason="the shard is cut short after {count} games: it has no end mark")
        elif not is_clean:
            yield Member(name="", reason=_FOLLOWED.replace("{place}", str(archive.offset)))
    except (tarfile.TarError, EOFError, OSError, ValueError, RecursionError) as error:
        yield Member(name="", reason=f"the shard is cut short or damaged after {{count}} games: {_escape(error)}")
    except GameError as error:
        yield Member(name="", reason=_escape(error))
    except UserError as error:
        yield Member(name="", reason=f"cannot be read: {_escape(error)}")


def _escape(error: Exception) -> str:
    return str(error).replace("{", "{{").replace("}", "}}")


def _has_end_mark(stream: pa.NativeFile) -> bool:
    """Whether a tar ends as it must, in two blocks of zeros; a cut between two members looks whole otherwise."""
    stream.seek(max(0, stream.size() - _END_BYTES))
    is_whole = bytes(stream.read()) == bytes(_END_BYTES)
    stream.seek(0)
    return is_whole


def _holds_zeros(stream: pa.NativeFile, start: int) -> bool:
    """Whether nothing but zeros follows, as after the last member; tarfile ends there, and at any damaged header."""
    stream.seek(start)
    while chunk := bytes(stream.read(CHUNK_BYTES)):
        if chunk != bytes(len(chunk)):
            return False
    return True


class _Waiting:
    """Members of games of which more may come."""

    def __init__(self) -> None:
        self.released = 0
        self._held: dict[str, Member] = {}
        self._given: set[str] = set()
        self._bytes = 0
        self._is_scattered = False
        """Whether some game's members stand apart: then any game may have more of them."""

    def take(self, name: str) -> Member:
        """The member of that name so far."""
        if name in self._given:
            return Member(name=name, reason=_LATE)
        member = self._held.pop(name, None)
        if member is None:
            return Member(name=name)
        self._is_scattered = True
        self._bytes -= len(member.data)
        return member

    def put_back(self, member: Member) -> Iterator[Member]:
        """Yields what waits no longer, now that another game's members follow."""
        is_whole = bool(member.data and member.entry)
        if member.reason or (is_whole and not self._is_scattered):
            self._given.add(member.name)
            yield member
            return
        self._held[member.name] = member
        self._bytes += len(member.data)
        while self._bytes > _HELD_BYTES:
            oldest = next(iter(self._held))
            self._bytes -= len(self._held[oldest].data)
            self._given.add(oldest)
            yield _finish(self._held.pop(oldest))

    def release(self) -> Iterator[Member]:
        """All that wait: nothing follows."""
        held, self._held = self._held, {}
        self.released += len(held)
        yield from map(_finish, held.values())


def _group(archive: tarfile.TarFile, size: int, waiting: _Waiting) -> Iterator[Member]:
    """The games of a shard of so many bytes, but for those that stay in `waiting`."""
    current: Member | None = None
    for info in archive:
        if info.isdir() or _is_hidden(info.name):
            continue
        if _PARSED_FOLDER.search(info.name):
            raise GameError(_UNPACKED.format(name=info.name))
        stem, _, suffix = info.name.rsplit("/", 1)[-1].partition(".")
        name = stem.replace("\0", "\\0") or f"member at byte {info.offset}"
        if current is not None and current.name != name:
            yield from waiting.put_back(current)
            current = None
        if info.offset_data + info.size > size:  # tarfile would go there in steps, also far beyond the end
            raise tarfile.ReadError(f"{info.name} claims {info.size} bytes, {max(0, size - info.offset_data)} are left")
        current = current or waiting.take(name)
        current.reason = current.reason or _refuse(info)
        if not current.reason:
            stream = archive.extractfile(info)
            _take(current, suffix, stream.read() if stream else b"")
    if current is not None:
        yield from waiting.put_back(current)


def _is_hidden(name: str) -> bool:
    """True in hidden folders, and for files that macOS adds to an archive."""
    *folders, file = name.split("/")
    is_inside = any(folder == "__MACOSX" or (folder.strip(".") and folder.startswith(".")) for folder in folders)
    return is_inside or file.startswith(("._", ".DS_Store"))


def _refuse(info: tarfile.TarInfo) -> str:
    if not info.isfile():
        return f"{info.name} is a link or a device, expected a file"
    name = info.name.rsplit("/", 1)[-1]
    if info.name.startswith("/") or ".." in info.name.split("/"):
        return f"{info.name} points out of the shard"
    if not is_plain_name(name):
        return f"{name!r} is not a plain file name"
    return f"{info.name} claims {info.size} bytes: no game is that long" if info.size > MAX_GAME_BYTES else ""


def _take(member: Member, suffix: str, data: bytes) -> None:
    if suffix.endswith("json"):
        member.entry, member.reason = _read_entry(data)
    elif suffix.endswith("npy"):
        member.frame_ids = data
    elif member.data:
        member.reason = "the shard holds two game files for it"
    else:
        member.data = data


def _read_entry(data: bytes) -> tuple[dict[str, object], str]:
    try:
        if len(data) > _MOST_ENTRY_BYTES:
            raise ValueError(f"{len(data)} bytes, an entry has at most {_MOST_ENTRY_BYTES}")
        entry = json.loads(data)
    except (ValueError, RecursionError) as error:
        return {}, f"its .json is damaged: {error}"
    if not isinstance(entry, dict):
        return {}, f"its .json holds a {type(entry).__name__}, expected an object"
    return entry, ""


def _finish(member: Member) -> Member:
    if not member.data and not member.reason:
        member.reason = "the shard holds no game file for it"
    return member
