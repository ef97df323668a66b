"""Tar shards (the WebDataset convention): parsed games packed for sequential reading from an object store.

A sample is the run of members that share a name up to its first dot: `<md5>.game` (the parsed file's bytes, unchanged),
`<md5>.json` (its entry of meta.json) and, where known, `<md5>.frame_ids.npy`. A shard from elsewhere may name the game
as it likes: any member that is neither .json nor .npy is the game.
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
    count = 0
    try:
        with location.open_input() as stream:
            is_whole = _has_end_mark(stream)
            buffered = pa.BufferedInputStream(stream, CHUNK_BYTES)  # few requests to a store
            with tarfile.open(fileobj=buffered, mode="r|", bufsize=_READ_BYTES) as archive:
                for member in _group(archive, stream.size()):
                    count += 1
                    yield member
            is_clean = is_whole and _holds_zeros(stream, archive.offset)
        if not is_whole:
            yield Member(name="", reason=f"the shard is cut short after {count} games: it has no end mark")
        elif not is_clean:
            yield Member(name="", reason=_FOLLOWED.format(count=count, place=archive.offset))
    except (tarfile.TarError, EOFError, OSError, ValueError, RecursionError) as error:
        yield Member(name="", reason=f"the shard is cut short or damaged after {count} games: {error}")
    except GameError as error:
        yield Member(name="", reason=str(error))
    except UserError as error:
        yield Member(name="", reason=f"cannot be read: {error}")


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


def _group(archive: tarfile.TarFile, size: int) -> Iterator[Member]:
    """The games of a shard of so many bytes."""
    current: Member | None = None
    for info in archive:
        if info.isdir():
            continue
        if _PARSED_FOLDER.search(info.name):
            raise GameError(_UNPACKED.format(name=info.name))
        name, _, suffix = info.name.rsplit("/", 1)[-1].partition(".")
        if current is not None and current.name != name:
            yield _finish(current)
            current = None
        if info.offset_data + info.size > size:  # tarfile would go there in steps, also far beyond the end
            raise tarfile.ReadError(f"{info.name} claims {info.size} bytes, {max(0, size - info.offset_data)} are left")
        current = current or Member(name=name)
        current.reason = current.reason or _refuse(info)
        if not current.reason:
            stream = archive.extractfile(info)
            _take(current, suffix, stream.read() if stream else b"")
    if current is not None:
        yield _finish(current)


def _refuse(info: tarfile.TarInfo) -> str:
    if not info.isfile():
        return f"{info.name} is a link or a device, expected a file"
    name = info.name.rsplit("/", 1)[-1]
    if info.name.startswith("/") or ".." in info.name.split("/"):
        return f"{info.name} points out of the shard"
    if not name.partition(".")[0]:
        return f"{info.name} has no name before its first dot"
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
