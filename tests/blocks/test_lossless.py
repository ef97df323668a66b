"""What a file holds is what its block yields, for every column, read independently of the package."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.games_on_disk import (
    Columns,
    as_file,
    encode_here,
    name_of,
    random_columns,
    read_columns,
    toy_columns,
    write_folder,
)
from worldmodel.blocks.block import read_stored_games
from worldmodel.blocks.index import read_index
from worldmodel.blocks.layout import layout_named
from worldmodel.games.game import Game
from worldmodel.schema import PLAYER_FIELDS, PLAYERS, SPARSE
from worldmodel.storage import Location

STATE_BYTES = sum(field.bits // 8 for field in PLAYER_FIELDS)


def bits(values: np.ndarray) -> np.ndarray:
    return values.view(f"u{values.itemsize}") if values.dtype.kind == "f" else values


def assert_holds(game: Game, columns: Columns, rows: np.ndarray) -> None:
    """Every column of a file, at `rows`, is in the game with the same bits, and the game holds nothing else."""
    left = set(columns)
    for player in range(PLAYERS):
        for field in PLAYER_FIELDS:
            expected = columns.get((f"p{player}", *field.column))
            left.discard((f"p{player}", *field.column))
            found = game.columns[player, field.name]
            if expected is None:
                assert f"p{player}.{field.name}" in game.absent
                assert not found.any()
            else:
                assert np.array_equal(bits(found.astype(expected.dtype)), bits(expected[rows])), (player, field.name)
    for group in SPARSE:
        for slot, path in enumerate(group.paths):
            for name, kind in group.fields:
                expected = columns.get((*path, name), np.zeros(rows.max() + 1, kind))[rows]
                left.discard((*path, name))
                assert np.array_equal(bits(dense(game, group.name, slot, name, expected)), bits(expected)), (path, name)
    assert left == {("stage",)}
    assert (columns["stage",] == game.stage).all()


def dense(game: Game, group: str, slot: int, name: str, like: np.ndarray) -> np.ndarray:
    found = np.zeros(len(like), like.dtype)
    if group in game.sparse:
        rows = game.sparse[group]
        mine = rows.slots == slot
        found[rows.frames[mine]] = rows.values[name][mine].astype(like.dtype)
    return found


def stored_games(out: Path) -> dict[str, Game]:
    return {game.md5: game for game in read_stored_games(Location.of(out), read_index(Location.of(out)).games)}


@given(
    seed=st.integers(0, 2**32),
    frames=st.integers(1, 60),
    is_tight=st.booleans(),
    is_archive=st.booleans(),
    compression=st.sampled_from(["snappy", "none", "zstd", "gzip"]),
    is_zlib=st.booleans(),
    use_dictionary=st.booleans(),
    row_group_size=st.sampled_from([7, 1000]),
)
@settings(max_examples=30, deadline=None)
def test_any_values_come_back_with_the_same_bits(
    seed: int, frames: int, is_tight: bool, is_archive: bool, is_zlib: bool, **options: object
) -> None:
    files = [
        as_file(
            random_columns(seed + n, frames + n, is_tight=is_tight, is_archive=is_archive), is_zlib=is_zlib, **options
        )
        for n in range(2)
    ]
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "games", Path(folder) / "blocks"
        write_folder(source, {name_of(content): content for content in files})
        summary = encode_here(source, out)
        assert summary.rejected == []
        games = stored_games(out)
        for content in files:
            columns = read_columns(content)
            assert_holds(games[name_of(content)], columns, np.arange(len(columns["stage",])))
        if not is_archive and not is_tight:
            assert {block.layout for block in summary.index.blocks} == {"wide"}


def test_games_of_a_console_are_stored_tightly(tmp_path: Path) -> None:
    content = as_file(toy_columns(1, 300))
    write_folder(tmp_path / "games", {name_of(content): content})
    summary = encode_here(tmp_path / "games", tmp_path / "out")
    assert [block.layout for block in summary.index.blocks] == ["tight"]


@pytest.mark.parametrize("value", [0.123, -0.0, 1.25, np.nextafter(np.float32(0.5), np.float32(1))])
def test_one_stick_value_off_the_consoles_grid_is_kept(tmp_path: Path, value: float) -> None:
    columns = toy_columns(2, 50)
    columns["p1", "controller", "c_stick", "y"][7] = value
    content = as_file(columns)
    write_folder(tmp_path / "games", {name_of(content): content})
    summary = encode_here(tmp_path / "games", tmp_path / "out")
    assert [block.layout for block in summary.index.blocks] == ["wide"]
    (game,) = stored_games(tmp_path / "out").values()
    assert_holds(game, columns, np.arange(50))


def test_a_column_that_files_of_old_versions_lack_is_absent_not_zero(tmp_path: Path) -> None:
    columns = toy_columns(3, 50)
    lacking = [("p0", "hitlag"), ("p1", "state_flags_2"), *[path for path in columns if path[0] == "items"]]
    content = as_file({path: values for path, values in columns.items() if path not in lacking})
    write_folder(tmp_path / "games", {name_of(content): content})
    encode_here(tmp_path / "games", tmp_path / "out")
    (game,) = stored_games(tmp_path / "out").values()
    assert game.absent == {"p0.hitlag", "p1.state_flags_2", "items"}
    assert {"p0.hitlag", "p1.state_flags_2"} <= game.missing
    assert_holds(game, read_columns(content), np.arange(50))


@pytest.fixture(scope="module")
def real_blocks(shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("real") / "blocks"
    summary = encode_here(shared_folder / "data" / "games", out)
    assert (len(summary.index.games), summary.index.frames, summary.rejected) == (102, 816_410, [])
    assert summary.index.bytes_per_frame <= 176
    without_items = sum(b.frames * layout_named(b.layout).frame_bytes for b in summary.index.blocks)
    assert without_items / summary.index.frames - PLAYERS * STATE_BYTES <= 150
    return out


def test_real_games_come_back_with_the_same_bits_without_their_repeats(shared_folder: Path, real_blocks: Path) -> None:
    source = shared_folder / "data" / "games"
    games = stored_games(real_blocks)
    assert len(games) == 102
    for md5, game in games.items():
        columns = read_columns((source / "games" / md5).read_bytes())
        ids = np.load(source / "frame_ids" / f"{md5}.npy")
        last = {frame: row for row, frame in enumerate(ids)}
        assert_holds(game, columns, np.array([last[frame] for frame in sorted(last)]))


def test_real_games_without_frame_ids_keep_their_repeats_and_the_audit_says_so(
    shared_folder: Path, tmp_path: Path
) -> None:
    source = tmp_path / "games"
    source.mkdir()
    for name in ("meta.json", "games"):
        (source / name).symlink_to(shared_folder / "data" / "games" / name)
    summary = encode_here(source, tmp_path / "out")
    assert summary.index.frames == 861_750
    assert any("repeats are unknown in 102 of 102 games" in warning for warning in summary.warnings)
