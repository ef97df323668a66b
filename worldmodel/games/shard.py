"""Tar shards (the WebDataset convention): parsed games packed for sequential reading from an object store.

A sample is the run of members that share a name up to its first dot: `<md5>.game` (the parsed file's bytes, unchanged),
`<md5>.json` (its entry of meta.json) and, where known, `<md5>.frame_ids.npy`. A shard from elsewhere may name the game
as it likes: any member that is neither .json nor .npy is the game.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

from worldmodel.games.leaves import MAX_GAME_BYTES
from worldmodel.storage import Location

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
        with location.open_input() as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in _group(archive):
                count += 1
                yield member
    except (tarfile.TarError, EOFError, OSError) as error:
        yield Member(name="", reason=f"the shard is cut short or damaged after {count} games: {error}")


def _group(archive: tarfile.TarFile) -> Iterator[Member]:
    current: Member | None = None
    for info in archive:
        if not info.isfile():
            continue
        name, _, suffix = info.name.rsplit("/", 1)[-1].partition(".")
        if current is not None and current.name != name:
            yield _finish(current)
            current = None
        current = current or Member(name=name)
        if info.size > MAX_GAME_BYTES:
            current.reason = f"{info.name} claims {info.size} bytes: no game is that long"
            continue
        _take(current, suffix, archive.extractfile(info))
    if current is not None:
        yield _finish(current)


def _take(member: Member, suffix: str, stream: IO[bytes] | None) -> None:
    data = stream.read() if stream else b""
    if suffix.endswith("json"):
        try:
            entry = json.loads(data)
            member.entry = entry if isinstance(entry, dict) else {}
        except ValueError as error:
            member.reason = f"its .json is damaged: {error}"
    elif suffix.endswith("npy"):
        member.frame_ids = data
    else:
        member.data = data


def _finish(member: Member) -> Member:
    if not member.data and not member.reason:
        member.reason = "the shard holds no game file for it"
    return member
