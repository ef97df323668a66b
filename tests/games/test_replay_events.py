"""Replays in bytes: whole games that a recorder did not close are read, and what is no number refuses a game."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest

from tests.games.slp_bytes import (
    METADATA,
    SHEIK,
    ZELDA,
    change_character,
    make_events,
    wrap,
    write_number,
)  # fmt: skip
from tests.games_on_disk import encode_here
from worldmodel.errors import GameError
from worldmodel.games.parse import parse_replays
from worldmodel.games.replay import parse_replay, read_replay_bytes
from worldmodel.games.replay_events import complete

pytest.importorskip("peppi_py", reason="the replay parser is not installed: pip install 'worldmodel[replay]'")

EVENTS = make_events()
UNCLOSED = {
    "no metadata": wrap(EVENTS, metadata=b""),
    "cut metadata": wrap(EVENTS, metadata=METADATA[:5]),
    "no length": wrap(EVENTS, length=0),
    "no length and no metadata": wrap(EVENTS, length=0, metadata=b""),
    "no bookend of the last frame": wrap(make_events(bookends=399)),
    "none of these": wrap(make_events(bookends=399), length=0, metadata=b""),
}


def parse(raw: bytes) -> object:
    return parse_replay(raw, Path("game.slp"))


@pytest.mark.parametrize("what", UNCLOSED)
def test_a_whole_game_is_read_though_its_file_was_not_closed(what: str) -> None:
    whole, found = parse(wrap(EVENTS)), parse(UNCLOSED[what])
    assert found.frames == whole.frames and len(found.frames) == 400


@pytest.mark.parametrize("end", [b"", b"\n", b" \r\n"])
def test_a_closed_file_stays_as_it_is(end: bytes) -> None:
    whole = wrap(EVENTS, metadata=b"U\x08metadata{U\x08playedOnSU\x07dolphin}}" + end)
    assert complete(whole) == whole


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (wrap(EVENTS)[:9000], "the recording was cut off"),
        (wrap(EVENTS[:9000], length=0), "a frame is not whole: the recording was cut off"),
        (b"no replay" * 100, "does not begin as a Slippi replay"),
        (wrap(make_events(bookends=200)), "a frame is not whole"),
    ],
)
def test_why_a_replay_gives_no_game_is_said_in_plain_words(raw: bytes, reason: str) -> None:
    with pytest.raises(GameError, match=reason):
        parse(raw)


@pytest.mark.parametrize(("place", "name"), [(0x16, "percent"), (0x12, "facing"), (0xA, "x"), (0x22, "state_age")])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_refuses_the_game_by_name(place: int, name: str, value: float) -> None:
    raw = wrap(make_events(change=write_number([300], place, value)))
    with pytest.raises(GameError, match=f"P2 {name} has 1 values that are no numbers"):
        parse(raw)


@pytest.mark.parametrize(
    ("before", "after", "most"), [(SHEIK, ZELDA, ZELDA), (ZELDA, SHEIK, SHEIK)], ids=["sheik first", "zelda first"]
)
def test_the_character_that_is_played_most_counts(tmp_path: Path, before: int, after: int, most: int) -> None:
    (tmp_path / "replays").mkdir()
    raw = wrap(make_events(change=change_character(20, before, after)))
    (tmp_path / "replays/a.slp").write_bytes(raw)
    parse_replays(tmp_path / "replays", tmp_path / "games", workers=1)
    (entry,) = json.loads((tmp_path / "games/meta.json").read_text())
    index = encode_here(tmp_path / "games", tmp_path / "blocks").index
    assert entry["players"][0]["character"] == index.games[0].characters[0] == most
    assert index.audit["characters"][str(most)] == 1


@pytest.mark.parametrize("tail", [b"", bytes(512)])
def test_a_gzip_file_of_several_members_is_read_whole(tmp_path: Path, tail: bytes) -> None:
    raw = wrap(EVENTS)
    (tmp_path / "a.slp.gz").write_bytes(gzip.compress(raw[:1000]) + gzip.compress(raw[1000:]) + tail)
    assert read_replay_bytes(tmp_path / "a.slp.gz") == raw
