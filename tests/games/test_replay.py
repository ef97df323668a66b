from __future__ import annotations

import gzip
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.games.fake_replays import FRAMES, fake_data, fake_game
from worldmodel.errors import GameError
from worldmodel.games import replay
from worldmodel.games.replay import ParsedReplay, name_replay, parse_replay, read_replay_bytes
from worldmodel.games.replay_frames import BUTTON_BITS, assign_slots, pick_rows
from worldmodel.games.writer import FIRST_FRAME_ID


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Parses what `fake_game` made, as if peppi had read it."""

    def run(game: SimpleNamespace) -> ParsedReplay:
        monkeypatch.setattr(replay, "_read_game", lambda raw: game)
        return parse_replay(b"raw", Path("folder/game.slp.gz"))

    return run


def _column(parsed: ParsedReplay, *path: str) -> np.ndarray:
    found: pa.Array = parsed.frames
    for part in path:
        found = found.field(part)
    return found.to_numpy(zero_copy_only=False)


def _numbers(array: pa.Array) -> np.ndarray:
    return array.to_numpy(zero_copy_only=False)


@given(st.lists(st.integers(0, 40), min_size=1))
def test_the_last_row_of_every_frame_stays(steps: list[int]) -> None:
    """Against a dictionary filled in the file's order; ids go forwards by one and back by rollbacks."""
    ids = [FIRST_FRAME_ID]
    for step in steps:
        ids.append(max(FIRST_FRAME_ID, max(ids) + 1 - step // 8))
    last = {frame: row for row, frame in enumerate(ids)}
    assert pick_rows(np.array(ids)).tolist() == [last[frame] for frame in sorted(last)]


@pytest.mark.parametrize(
    ("ids", "pattern"),
    [([], "no frames"), ([-122, -121], "first frame id is -122"), ([-123, -121], "frame ids skip after -123")],
)
def test_lost_frames_are_named(ids: list[int], pattern: str) -> None:
    with pytest.raises(GameError, match=pattern):
        pick_rows(np.array(ids, dtype=np.int32))


@given(st.lists(st.sets(st.integers(0, 9), max_size=4), min_size=1, max_size=20))
def test_an_item_keeps_its_slot_while_it_lives_and_shares_it_with_nobody(frames: list[set[int]]) -> None:
    ids = np.array([item for frame in frames for item in sorted(frame)], dtype=np.uint32)
    offsets = np.cumsum([0, *(len(frame) for frame in frames)])
    slots = assign_slots(ids, offsets, 4)
    before: dict[int, int] = {}
    for start, stop in itertools.pairwise(offsets):
        now = dict(zip(ids[start:stop].tolist(), slots[start:stop].tolist(), strict=True))
        assert len(set(now.values())) == len(now) and set(now.values()) <= set(range(4))
        assert all(now[item] == before[item] for item in now.keys() & before.keys())
        before = now


def test_more_items_than_slots_are_refused_not_dropped() -> None:
    with pytest.raises(GameError, match="3 items in one frame, the layout holds 2"):
        assign_slots(np.array([1, 2, 3]), np.array([0, 3]), 2)


def test_values_come_from_the_right_player_whatever_the_ports(parse: Any) -> None:
    game = fake_game(ports=(1, 3))
    parsed = parse(game)
    assert parsed.entry.as_json["ports"] == [1, 3]
    for player, port in enumerate(game.frames.ports):
        post, pre = port.leader.post, port.leader.pre
        expected = {
            ("x",): _numbers(post.position.x),
            ("action",): _numbers(post.state),
            ("percent",): np.floor(_numbers(post.percent)),
            ("facing",): _numbers(post.direction) > 0,
            ("on_ground",): _numbers(post.airborne) == 0,
            ("invulnerable",): _numbers(post.hurtbox_state) != 0,
            ("speed_attack_y",): _numbers(post.velocities.knockback_y),
            ("state_flags_4",): _numbers(post.state_flags[4]),
            ("hitstun_remaining",): _numbers(post.misc_as),
            ("controller", "c_stick", "y"): _numbers(pre.cstick.y) / np.float32(2) + np.float32(0.5),
            ("controller", "shoulder"): np.maximum(*map(_numbers, (pre.triggers_physical.l, pre.triggers_physical.r))),
        }
        for path, values in expected.items():
            np.testing.assert_array_equal(_column(parsed, f"p{player}", *path), values, err_msg=str(path))
        character = parsed.entry.players[player]["character"]
        assert character == np.bincount(_numbers(post.character)).argmax()


@pytest.mark.parametrize("button", BUTTON_BITS)
def test_each_button_has_its_own_bit(parse: Any, button: str) -> None:
    game = fake_game()
    game.frames.ports[0].leader = fake_data(FRAMES, 0, buttons=BUTTON_BITS[button])
    parsed = parse(game)
    pressed = _numbers(game.frames.ports[0].leader.pre.buttons_physical) > 0
    for name in BUTTON_BITS:
        found = _column(parsed, "p0", "controller", "buttons", name)
        np.testing.assert_array_equal(found, pressed & (name == button))


def test_a_rollback_leaves_its_last_version_and_is_counted(parse: Any) -> None:
    ids = np.concatenate([np.arange(-123, 0), np.arange(-3, FRAMES - 123)])
    game = fake_game(ids)
    parsed = parse(game)
    assert (len(parsed.frames), parsed.entry.lastFrame, parsed.entry.dropped_repeats) == (FRAMES, FRAMES, 3)
    assert parsed.frame_ids.tolist() == list(range(-123, FRAMES - 123))
    x = _numbers(game.frames.ports[1].leader.post.position.x)
    np.testing.assert_array_equal(_column(parsed, "p1", "x"), np.concatenate([x[:120], x[123:]]))


def test_what_a_version_does_not_record_has_no_column(parse: Any) -> None:
    game = fake_game()
    for port in game.frames.ports:
        port.leader.post.hitlag = port.leader.post.velocities = None
    game.frames.items = None
    names = {field.name for field in parse(game).frames.type.field("p0").type}
    assert "x" in names and not names & {"hitlag", "speed_air_x", "speed_attack_y"}


def test_a_version_without_what_every_game_needs_is_refused(parse: Any) -> None:
    game = fake_game()
    game.frames.ports[0].leader.post.position = None
    with pytest.raises(GameError, match="does not record x, which every game needs"):
        parse(game)


@pytest.mark.parametrize(("whole", "expected"), [(0, 0), (7, 7), (199, 199), (240, 200), (16384, 200), (-(2**31), 0)])
def test_a_whole_number_in_the_hitstun_counter_is_read_as_one(parse: Any, whole: int, expected: int) -> None:
    game = fake_game()
    values = np.full(FRAMES, whole, dtype=np.int32).view(np.float32)
    game.frames.ports[0].leader.post.misc_as = pa.array(values)
    assert set(_column(parse(game), "p0", "hitstun_remaining")) == {expected}


def test_nana_is_kept_where_she_is_and_zero_where_she_is_not(parse: Any) -> None:
    game = fake_game()
    follower = fake_data(FRAMES, 9)
    there = np.arange(FRAMES) % 3 > 0
    for data, names in (
        (follower.post, ("state", "percent", "jumps", "shield", "airborne")),
        (follower.post.position, "xy"),
    ):
        for name in names:
            values = getattr(data, name)
            setattr(data, name, pa.array(_numbers(values), values.type, mask=~there))
    game.frames.ports[1].follower = follower
    parsed = parse(game)
    np.testing.assert_array_equal(_column(parsed, "p1", "nana", "exists"), there)
    x = np.where(there, np.nan_to_num(_numbers(follower.post.position.x)), 0)
    np.testing.assert_array_equal(_column(parsed, "p1", "nana", "x"), x)
    assert not _column(parsed, "p0", "nana", "exists").any()


def test_half_a_nana_refuses_the_game(parse: Any) -> None:
    game = fake_game()
    game.frames.ports[0].follower = fake_data(FRAMES, 9)
    game.frames.ports[0].follower.post.airborne = None
    with pytest.raises(GameError, match="does not record on_ground of Nana"):
        parse(game)


def _with(change: Any, **start: Any) -> SimpleNamespace:
    game = fake_game(**start)
    change(game)
    return game


REFUSALS = {
    "1 players free for all, expected two": lambda: fake_game(ports=(0,)),
    "4 players in teams, expected two": lambda: fake_game(ports=(0, 1, 2, 3), is_teams=True),
    "two players with teams on": lambda: fake_game(is_teams=True),
    r"port 2 is a computer player \(cpu\)": lambda: _with(
        lambda game: setattr(game.start.players[1], "type", SimpleNamespace(name="CPU"))
    ),
    "Icicle Mountain is none of the six": lambda: fake_game(stage=25),
    "no Game End event": lambda: _with(lambda game: setattr(game, "end", None)),
    "end method unresolved": lambda: _with(lambda game: setattr(game.end.method, "name", "UNRESOLVED")),
    "too short: 299 frames": lambda: fake_game(np.arange(-123, 299 - 123)),
    "bad frame ids: frame ids skip after 0": lambda: fake_game(np.delete(np.arange(-123, 400), 124)),
    "idle player: port 1 never presses": lambda: _with(
        lambda game: setattr(game.frames.ports[0], "leader", fake_data(FRAMES, 0, buttons=0))
    ),
    "P1 x has 1 values that are no numbers": lambda: _with(
        lambda game: setattr(
            game.frames.ports[0].leader.post.position, "x", pa.array([np.nan] + [0.0] * (FRAMES - 1), pa.float32())
        )
    ),
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_each_kind_of_unusable_game_is_refused_with_its_reason(parse: Any, reason: str) -> None:
    with pytest.raises(GameError, match=reason):
        parse(REFUSALS[reason]())


def test_the_fingerprint_ignores_names_and_nothing_else(parse: Any) -> None:
    plain = parse(fake_game()).entry.start_key
    renamed = fake_game()
    renamed.start.players[0].netplay = renamed.start.players[1].name_tag = "someone"
    assert parse(renamed).entry.start_key == plain
    for change in ({"random_seed": 8}, {"stage": 32}, {"ports": (0, 2)}):
        assert parse(fake_game(**change)).entry.start_key != plain


def test_bytes_are_the_same_packed_and_unpacked(tmp_path: Path) -> None:
    (tmp_path / "a.slp").write_bytes(b"replay")
    (tmp_path / "a.slp.gz").write_bytes(gzip.compress(b"replay"))
    raw = [read_replay_bytes(tmp_path / name) for name in ("a.slp", "a.slp.gz")]
    assert raw == [b"replay", b"replay"] and name_replay(raw[0]) == "b2dbeb695fa205804b1e5e72650ad2bb"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the gzip file is cut off"),
        (gzip.compress(b"", mtime=0), "the file is empty"),
        (gzip.compress(bytes(range(256)), mtime=0)[:-30], "the gzip file is cut off"),
        (b"no gzip at all", "damaged gzip"),
        (gzip.compress(bytes(2000), mtime=0), "more than 0 MiB"),
    ],
)
def test_a_damaged_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, reason: str
) -> None:
    monkeypatch.setattr(replay, "MAX_REPLAY_BYTES", 1000)
    (tmp_path / "a.slp.gz").write_bytes(content)
    with pytest.raises(GameError, match=reason):
        read_replay_bytes(tmp_path / "a.slp.gz")
