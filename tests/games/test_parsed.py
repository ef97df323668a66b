"""A parsed file gives the game it holds, or the reason why it gives none; never another exception."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.games_on_disk import Columns, as_file, nest, random_columns, table_as_file, toy_columns
from worldmodel.errors import GameError
from worldmodel.games import leaves
from worldmodel.games.game import Game
from worldmodel.games.parsed import read_game

FRAMES = 30
GOOD = toy_columns(1, FRAMES)


def read(content: bytes, ids: np.ndarray | None = None) -> Game:
    sink = io.BytesIO()
    if ids is not None:
        np.save(sink, ids)
    return read_game(content, "game", {}, sink.getvalue() if ids is not None else None)


def changed(path: str, row: int, value: float, kind: type = np.float64) -> Columns:
    key = tuple(path.split("."))
    values = GOOD[key].astype(kind)
    values[row] = value
    return {**GOOD, key: values}


def replaced(path: str, values: pa.Array) -> dict:
    return {**GOOD, tuple(path.split(".")): values}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"hello there", "neither zlib nor parquet"),
        (zlib.compress(b"hello"), "not a parquet file"),
        (b"PAR1" + bytes(100), "not a parquet file"),
        (as_file(GOOD)[:-20], "truncated: the zlib stream ends early"),
        (as_file(GOOD)[:100], "truncated: the zlib stream ends early"),
        (as_file(GOOD)[:50] + bytes(50) + as_file(GOOD)[100:], "damaged zlib data"),
        (as_file(GOOD, is_zlib=False)[:-20], "not a parquet file"),
        (table_as_file(pa.table({"a": [1]})), "no column 'root'; the file has a"),
        (table_as_file(pa.table({"root": [1.0]})), "column 'root' holds double, expected a struct"),
        (table_as_file(pa.table({"root": nest(GOOD), "more": [0] * FRAMES})), "unknown column 'more' beside 'root'"),
        (as_file({path: values[:0] for path, values in GOOD.items()}), "zero frames"),
        (as_file({p: v for p, v in GOOD.items() if p[0] != "p1"}), "no P2: the file has p0, expected p0 and p1"),
        (as_file({("stage",): GOOD["stage",]}), "no P1: the file has no player"),
        (as_file({p: v for p, v in GOOD.items() if p != ("stage",)}), "no column stage"),
        (as_file({p: v for p, v in GOOD.items() if p != ("p0", "action")}), "no column p0.action"),
        (as_file({**GOOD, ("p0", "mana"): GOOD["p0", "x"]}), "unknown column 'p0.mana'"),
        (as_file({**GOOD, ("items", "item_15", "x"): GOOD["p0", "x"]}), "unknown column 'items.item_15'"),
        (b"\x78", "truncated"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_game_says_why(content: bytes, reason: str) -> None:
    with pytest.raises(GameError, match=reason.replace("'", ".")):
        read(content)


@pytest.mark.parametrize(
    ("path", "row", "value", "reason"),
    [
        ("p0.x", 3, np.nan, "P1 x has 1 non-finite values, the first .nan. at row 3"),
        ("p1.speed_y", 9, np.inf, "P2 speed_y has 1 non-finite values, the first .inf. at row 9"),
        ("p0.percent", 2, -np.inf, "P1 percent has 1 non-finite"),
        ("p0.action", 4, 70000, "P1 action holds 70000.0 at row 4, outside its storage type uint16"),
        ("p0.action", 4, -1, "P1 action holds -1.0 at row 4, outside its storage type uint16"),
        ("p1.action", 4, 12.5, "P2 action holds 12.5 at row 4, outside its storage type uint16"),
        ("p1.jumps_left", 0, 256, "P2 jumps_left holds 256.0 at row 0, outside its storage type uint8"),
        ("p0.combo_count", 1, 65536, "P1 combo_count holds 65536.0 at row 1"),
        ("p0.on_ground", 1, 2, "P1 on_ground holds 2.0 at row 1, outside its storage type bit"),
        ("p0.state_flags_3", 1, 300, "P1 state_flags_3 holds 300.0 at row 1, outside its storage type uint8"),
        ("p0.x", 1, 1e-50, "P1 x holds 1e-50 at row 1, outside its storage type float32"),
        ("p0.x", 1, 0.1, "P1 x holds 0.1 at row 1, outside its storage type float32"),
        ("p0.x", 1, 1e300, "P1 x holds 1e.300 at row 1, outside its storage type float32"),
        ("stage", 5, 3.5, "the stage changes"),
        ("items.item_3.x", 2, np.nan, "items.item_3.x has non-finite values"),
        ("items.item_3.type", 2, 70000, "items.item_3.type holds a value outside its storage type uint16"),
        ("p0.nana.action", 2, -1, "p0.nana.action holds a value outside its storage type uint16"),
    ],
)
def test_a_value_that_its_type_cannot_hold_rejects_the_game_and_is_named(
    path: str, row: int, value: float, reason: str
) -> None:
    with pytest.raises(GameError, match=reason):
        read(as_file(changed(path, row, value)))


@pytest.mark.parametrize("stage", [-1, 65536, 2.5])
def test_a_stage_that_is_no_id_rejects_the_game(stage: float) -> None:
    with pytest.raises(GameError, match="stage holds"):
        read(as_file({**GOOD, ("stage",): np.full(FRAMES, stage)}))


@pytest.mark.parametrize(("path", "value"), [("combo_count", 300), ("stocks", 2.5), ("stocks", 300), ("percent", 0.25)])
def test_unusual_values_that_the_type_holds_are_kept(path: str, value: float) -> None:
    game = read(as_file(changed(f"p0.{path}", 3, value, np.float32)))
    assert game.columns[0, path][3] == value


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (pa.array([None] + [1.0] * (FRAMES - 1)), "p0.x has 1 null values"),
        (pa.array(["1"] * FRAMES), "column 'p0.x' holds string, expected numbers"),
        (pa.array(["1"] * FRAMES).dictionary_encode(), "column 'p0.x' holds dictionary"),
        (pa.array([1] * FRAMES, pa.decimal128(5, 2)), "column 'p0.x' holds decimal128"),
        (pa.array([1] * FRAMES, pa.timestamp("s")), "column 'p0.x' holds timestamp"),
        (pa.array([[1.0]] * FRAMES), "column 'p0.x' holds list"),
        (pa.array([{"a": 1}] * FRAMES), "column 'p0.x' holds struct"),
    ],
)
def test_a_column_of_another_kind_rejects_the_game(values: pa.Array, reason: str) -> None:
    with pytest.raises(GameError, match=reason.replace("'", ".")):
        read(as_file(replaced("p0.x", values)))


def test_a_column_that_stands_twice_is_refused_rather_than_lost() -> None:
    root = nest(GOOD)
    player = root.field("p0")
    names = [child.name for child in player.type]
    doubled = pa.StructArray.from_arrays([*player.flatten(), player.field("hitlag")], names=[*names, "hitlag"])
    others = [child.name for child in root.type if child.name != "p0"]
    root = pa.StructArray.from_arrays([doubled, *(root.field(name) for name in others)], names=["p0", *others])
    with pytest.raises(GameError, match="stands twice"):
        read(table_as_file(pa.table({"root": root})))


def test_a_column_of_nulls_is_not_recorded() -> None:
    nulls = pa.nulls(FRAMES, pa.float32())
    columns = {**replaced("p0.hitlag", nulls), ("p1", "on_ground"): nulls}
    assert {"p0.hitlag", "p1.on_ground"} <= read(as_file(columns)).missing
    with pytest.raises(GameError, match=r"no column p0\.percent"):
        read(as_file(replaced("p0.percent", nulls)))


def test_null_frames_reject_the_game() -> None:
    root = nest(GOOD)
    holes = pa.array([n == 4 for n in range(FRAMES)])
    masked = pa.StructArray.from_arrays(root.flatten(), names=[c.name for c in root.type], mask=holes)
    with pytest.raises(GameError, match="null values"):
        read(table_as_file(pa.table({"root": masked})))


def test_a_small_file_that_grows_to_gigabytes_is_refused_before_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = leaves.MAX_GAME_FRAMES + 1
    zeros = {("p0", "x"): np.zeros(frames, np.float32)}
    with pytest.raises(GameError, match=f"claims {frames} frames"):
        read(as_file(zeros, compression="zstd"))
    monkeypatch.setattr(leaves, "MAX_GAME_BYTES", 1 << 20)
    with pytest.raises(GameError, match="1 MiB once decompressed"):
        read(zlib.compress(bytes(2 << 20)))
    noise = {("p0", "x"): np.zeros(600_000, np.float32)}
    with pytest.raises(GameError, match="1 MiB once decompressed"):
        read(as_file(noise, compression="zstd", use_dictionary=False))


@given(seed=st.integers(0, 2**32), at=st.floats(0, 1), length=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_a_damaged_file_gives_a_reason_or_a_game_of_the_right_shape(seed: int, at: float, length: int) -> None:
    content = bytearray(as_file(GOOD, is_zlib=False))
    start = 4 + int(at * (len(content) - 4 - length))
    content[start : start + length] = np.random.default_rng(seed).bytes(length)
    try:
        game = read(bytes(content))
    except GameError as error:
        assert str(error)
    else:
        assert {len(values) for values in game.columns.values()} == {FRAMES}


@given(seed=st.integers(0, 2**32), repeats=st.lists(st.integers(0, 11), max_size=8))
@settings(max_examples=25, deadline=None)
def test_of_repeated_frames_the_last_version_stays(seed: int, repeats: list[int]) -> None:
    ids = list(range(-123, -123 + 12))
    for start in repeats:
        ids += range(ids[0] + start, ids[0] + 12)
    columns = random_columns(seed, len(ids))
    game = read(as_file(columns), np.array(ids, dtype=np.int32))
    last = {frame: row for row, frame in enumerate(ids)}
    rows = [last[frame] for frame in sorted(last)]
    assert game.frames == 12
    assert game.repeats == (f"{len(ids) - 12} dropped" if len(ids) > 12 else "none")
    for name in ("x", "action", "facing"):
        assert np.array_equal(game.columns[1, name], columns["p1", name][rows])
    items = game.sparse.get("items")
    dense = np.zeros(12, np.float32)
    if items is not None:
        dense[items.frames[items.slots == 2]] = items.values["x"][items.slots == 2]
    assert np.array_equal(dense.view(np.uint32), columns["items", "item_2", "x"][rows].view(np.uint32))


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        (np.arange(FRAMES - 1), f"{FRAMES - 1} frame ids for {FRAMES} rows"),
        (np.r_[0:5, 6 : FRAMES + 1], "frame ids skip after 4"),
        (np.arange(FRAMES, dtype=np.float32), "frame ids hold float32"),
    ],
)
def test_frame_ids_that_do_not_fit_reject_the_game(ids: np.ndarray, reason: str) -> None:
    with pytest.raises(GameError, match=reason):
        read(as_file(GOOD), ids)


def test_damaged_frame_ids_reject_the_game() -> None:
    with pytest.raises(GameError, match="frame ids cannot be read"):
        read_game(as_file(GOOD), "game", {}, b"\x93NUMPY")


def test_columns_of_equal_bytes_but_other_types_are_not_taken_for_each_other() -> None:
    columns = dict(GOOD)
    columns["p0", "x"] = np.full(FRAMES, 1.5, np.float32)
    columns["p0", "nana", "action"] = np.arange(FRAMES, dtype=np.uint16)
    columns["p0", "nana", "jumps_left"] = np.arange(FRAMES, dtype=np.uint8)
    columns["p0", "y"] = columns["p0", "x"].view(np.int32)
    game = read(as_file(columns))
    assert (game.columns[0, "y"] == np.float32(1.5).view(np.int32)).all()
    assert (game.columns[0, "x"] == 1.5).all()


def test_reading_is_that_of_pyarrow_for_a_file_of_many_row_groups() -> None:
    content = as_file(GOOD, row_group_size=4, is_zlib=False)
    assert pq.read_metadata(io.BytesIO(content)).num_row_groups == 8
    game = read(content)
    assert np.array_equal(game.columns[0, "x"], GOOD["p0", "x"])
