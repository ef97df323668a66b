"""A replay's bytes as the parser wants them: whole games of recorders that did not close the file are completed.

A `.slp` is `{U\\x03raw[$U#l`, four bytes of length, events, `U\\x08metadata`, an object and `}` (Slippi replay
specification). The first event gives the size of every other. Three things are found missing in games that are whole:
the length (0), the metadata, and the bookend of the last frame, which later versions write behind every frame.
"""

from __future__ import annotations

import struct

HEAD, METADATA = b"{U\x03raw[$U#l", b"U\x08metadata{}}"
_SIZES, _FRAME_START, _BOOKEND, _GAME_END = 0x35, 0x3A, 0x3C, 0x39
_PRE, _POST = 0x37, 0x38
_BEGIN = len(HEAD) + 4


def complete(raw: bytes) -> bytes:
    """The replay with what a recorder left out, or as it is where nothing is missing or it is no replay."""
    if not raw.startswith(HEAD) or len(raw) < _BEGIN + 2 or raw[_BEGIN] != _SIZES:
        return raw
    (length,) = struct.unpack_from(">I", raw, len(HEAD))
    sizes = _read_sizes(raw)
    end = _BEGIN + length if length else _find_end(raw, sizes)
    if len(raw) < end:
        return raw
    events, rest = _add_bookend(raw[_BEGIN:end], sizes), raw[end:]
    if not (rest.startswith(b"U") and rest.rstrip().endswith(b"}")):
        rest = METADATA
    return HEAD + struct.pack(">I", len(events)) + events + rest


def _read_sizes(raw: bytes) -> dict[int, int]:
    """Command to the bytes of its events, the command included."""
    table = raw[_BEGIN + 2 : _BEGIN + 1 + raw[_BEGIN + 1]]
    found = {code: 1 + size for code, size in struct.iter_unpack(">BH", table[: len(table) // 3 * 3])}
    return {**found, _SIZES: 1 + raw[_BEGIN + 1]}


def _find_end(raw: bytes, sizes: dict[int, int]) -> int:
    """Where the events end in a file that does not say it."""
    place = _BEGIN
    while place < len(raw) and raw[place] in sizes and place + sizes[raw[place]] <= len(raw):
        place += sizes[raw[place]]
    return place


def _add_bookend(events: bytes, sizes: dict[int, int]) -> bytes:
    """The events, with a bookend behind the last frame where it alone lacks one."""
    tail = len(events) - sizes.get(_GAME_END, 0) - sizes.get(_BOOKEND, 0)
    if _BOOKEND not in sizes or tail < 0 or events[tail] == _BOOKEND:
        return events
    place, last, bookend = 0, b"", b""
    while place < len(events) and events[place] in sizes:
        event = events[place : place + sizes[events[place]]]
        if event[0] == _BOOKEND:
            bookend = event
        if event[0] == _GAME_END:
            break
        if event[0] in (_FRAME_START, _PRE, _POST, _BOOKEND):
            last = event
        place += len(event)
    if not bookend or last[0] != _POST:
        return events
    frame = last[1:5]
    return events[:place] + bookend[:1] + frame + (frame + bookend[9:] if len(bookend) > 5 else b"") + events[place:]
