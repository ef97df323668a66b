"""Whole replays in Slippi's own bytes (version 3.7), made by hand: what recorders and the game may leave in a file."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

SIZES = {0x36: 420, 0x37: 63, 0x38: 72, 0x39: 2, 0x3A: 8, 0x3C: 8}
HEAD, METADATA = b"{U\x03raw[$U#l", b"U\x08metadata{}}"
PORTS = (0, 3)
MEWTWO, SHEIK, ZELDA = 16, 7, 19
Change = Callable[[int, int, bytearray], None]
"""Changes one player's post-frame event: called with frame, player (0 or 1) and the event."""


def make_events(frames: int = 400, change: Change | None = None, bookends: int | None = None) -> bytes:
    """The events of a game; `bookends`: how many frames have theirs (None: all)."""
    table = b"".join(struct.pack(">BH", code, size) for code, size in SIZES.items())
    parts = [bytes([0x35, len(table) + 1]), table, _start()]
    for number in range(frames):
        frame = struct.pack(">i", number - 123)
        parts.append(b"\x3a" + frame + bytes(4))
        parts += [_pre(frame, player, number) for player in range(2)]
        parts += [_post(frame, player, number, change) for player in range(2)]
        if bookends is None or number < bookends:
            parts.append(b"\x3c" + frame + frame)
    return b"".join([*parts, b"\x39\x02\xff"])


def wrap(events: bytes, length: int | None = None, metadata: bytes = METADATA) -> bytes:
    """A replay file; `length`: what it says of its events."""
    return HEAD + struct.pack(">I", len(events) if length is None else length) + events + metadata


def put_float(event: bytearray, place: int, value: float) -> None:
    """Write a number into an event at its place in the specification."""
    event[place : place + 4] = struct.pack(">f", value)


def _start() -> bytes:
    event = bytearray(1 + SIZES[0x36])
    event[0:4] = bytes([0x36, 3, 7, 0])
    event[0x13:0x15] = struct.pack(">H", 31)
    for port in range(4):
        event[0x66 + 0x24 * port] = 0 if port in PORTS else 3
        event[0x67 + 0x24 * port] = 4
    return bytes(event)


def _pre(frame: bytes, player: int, number: int) -> bytes:
    event = bytearray(1 + SIZES[0x37])
    event[0:6] = b"\x37" + frame + bytes([PORTS[player]])
    event[0x31:0x33] = struct.pack(">H", 0x100 * (number % 2))
    return bytes(event)


def _post(frame: bytes, player: int, number: int, change: Change | None) -> bytes:
    event = bytearray(1 + SIZES[0x38])
    event[0:6] = b"\x38" + frame + bytes([PORTS[player]])
    event[7] = MEWTWO
    event[0x21] = 4
    for place, value in ((0xA, number % 50), (0x12, 1.0), (0x16, number // 10), (0x1A, 60.0)):
        put_float(event, place, value)
    if change:
        change(number, player, event)
    return bytes(event)


def change_character(at: int, before: int, after: int) -> Change:
    """Player 0 is one character up to frame `at`, and then another."""

    def change(number: int, player: int, event: bytearray) -> None:
        if player == 0:
            event[7] = before if number < at else after

    return change


def write_number(frames: Sequence[int], place: int, value: float) -> Change:
    """Player 1 has this value at this place in these frames."""

    def change(number: int, player: int, event: bytearray) -> None:
        if player == 1 and number in frames:
            put_float(event, place, value)

    return change
