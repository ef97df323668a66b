from __future__ import annotations

import io
import json
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.errors import GameError, UserError
from worldmodel.games.parsed import read_game
from worldmodel.games.writer import (
    Entry,
    assemble_frames,
    leaf_types,
    open_output,
    read_entries,
    write_meta,
    write_parsed,
)
from worldmodel.schema import parsed_type

ROWS = 5
MD5 = "0" * 32


def _columns(seed: int = 0) -> dict[tuple[str, ...], np.ndarray]:
    dice = np.random.default_rng(seed)
    columns = {}
    for path, kind in leaf_types().items():
        dtype = np.dtype(kind.to_pandas_dtype())
        values = dice.integers(0, 2 if dtype.kind == "b" else 200, ROWS)
        columns[path] = (values + dice.random(ROWS) if dtype.kind == "f" else values).astype(dtype)
    columns["stage",] = np.full(ROWS, 31)
    return columns


def _entry(md5: str = MD5) -> Entry:
    return Entry(
        name="a.slp", slp_md5=md5, slp_size=1, lastFrame=ROWS, stage=31, game_end_method=2, source="a.slp",
        players=({"port": 1, "character": 2}, {"port": 3, "character": 9}), slippi_version="3.14.0", start_stocks=4,
    )  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_written_column_reads_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    out, columns = tmp_path_factory.mktemp("out"), _columns(seed)
    write_parsed(out, assemble_frames(columns), _entry())
    packed = (out / "games" / MD5).read_bytes()
    root = pq.read_table(io.BytesIO(zlib.decompress(packed)))["root"].combine_chunks()
    assert root.type == parsed_type()
    for path, values in columns.items():
        found: pa.Array = root
        for part in path:
            found = found.field(part)
        assert found.to_numpy(zero_copy_only=False).tobytes() == values.tobytes(), path


def test_a_field_without_values_has_no_column_and_is_named_in_the_entry(tmp_path: Path) -> None:
    columns = {path: values for path, values in _columns().items() if path[-1] != "hitlag" and path[0] != "items"}
    entry = write_parsed(tmp_path, assemble_frames(columns), _entry())
    assert entry["missing_fields"] == ["hitlag", "items"]
    game = read_game((tmp_path / "games" / MD5).read_bytes(), MD5, entry)
    assert game.absent == {"p0.hitlag", "p1.hitlag", "items"}


def test_a_field_that_one_player_lacks_counts_as_missing(tmp_path: Path) -> None:
    columns = _columns()
    del columns["p1", "hitlag"]
    assert write_parsed(tmp_path, assemble_frames(columns), _entry())["missing_fields"] == ["hitlag"]


def test_an_interrupted_run_finds_its_games_without_meta_json(tmp_path: Path) -> None:
    entry = write_parsed(tmp_path, assemble_frames(_columns()), _entry())
    assert read_entries(tmp_path) == {MD5: entry}
    write_meta(tmp_path, [entry])
    assert read_entries(tmp_path) == {MD5: entry}


@pytest.mark.parametrize("damage", [b"", b"half", zlib.compress(b"no parquet")])
def test_a_damaged_game_file_does_not_count_as_there(tmp_path: Path, damage: bytes) -> None:
    write_parsed(tmp_path, assemble_frames(_columns()), _entry())
    (tmp_path / "games" / MD5).write_bytes(damage)
    assert read_entries(tmp_path) == {}


def test_an_entry_has_every_key_of_the_users_own_meta_json(shared_folder: Path) -> None:
    theirs = json.loads((shared_folder / "data/games/meta.json").read_text())[0]
    assert theirs.keys() <= _entry().as_json.keys()


def test_meta_json_is_ordered_by_md5_whatever_the_order_of_writing(tmp_path: Path) -> None:
    entries = [_entry(digit * 32).as_json for digit in "bca"]
    write_meta(tmp_path, entries)
    first = (tmp_path / "meta.json").read_bytes()
    write_meta(tmp_path, entries[::-1])
    assert (tmp_path / "meta.json").read_bytes() == first
    assert [entry["slp_md5"][0] for entry in json.loads(first)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("path", "values", "pattern"),
    [
        (("p0", "stocks"), np.full(ROWS, 256), r"p0\.stocks holds a value outside uint8"),
        (("p0", "stocks"), np.full(ROWS, -1), r"p0\.stocks holds a value outside uint8"),
        (("p0", "mood"), np.zeros(ROWS), r"no such column in the parsed layout: p0\.mood"),
        (("p1", "x"), pa.array([None] * ROWS, pa.float32()), r"p1\.x has no value in 5 of 5 rows"),
    ],
)
def test_what_the_layout_cannot_hold_is_refused_by_name(path: tuple[str, ...], values: object, pattern: str) -> None:
    with pytest.raises(GameError, match=pattern):
        assemble_frames({**_columns(), path: values})


def test_nothing_but_finished_files_is_left(tmp_path: Path) -> None:
    write_parsed(tmp_path, assemble_frames(_columns()), _entry(), np.arange(ROWS))
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {f"games/{MD5}", f"frame_ids/{MD5}.npy"}


def test_an_output_that_cannot_be_written_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write into"):
        open_output(tmp_path / "file")


def test_a_meta_json_that_is_something_else_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match=r"meta\.json is not a list of games"):
        read_entries(tmp_path)
