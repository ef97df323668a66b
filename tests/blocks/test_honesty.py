"""What a data set must not hide: changed values, impossible ones, games that are not there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.games_on_disk import as_file, encode_here, name_of, toy_columns, write_folder
from worldmodel.blocks.verification import verify_blocks
from worldmodel.errors import UserError
from worldmodel.games.tar import pack_games


def write(folder: Path, x: float | None = None) -> list[str]:
    """Three games under names that do not follow their content; `x`: a value in the first one."""
    games = [toy_columns(seed, 40) for seed in range(3)]
    if x is not None:
        games[0]["p0", "x"] = np.where(np.arange(40) == 7, np.float32(x), games[0]["p0", "x"])
    return write_folder(folder, {name_of(str(n).encode()): as_file(game) for n, game in enumerate(games)})


def test_the_fingerprint_follows_the_values_and_not_only_the_names(tmp_path: Path) -> None:
    write(tmp_path / "a"), write(tmp_path / "b", x=12.5), write(tmp_path / "c")
    prints = [encode_here(tmp_path / n, tmp_path / f"{n}-out").index.fingerprint for n in "abc"]
    assert prints[0] == prints[2] != prints[1]


def test_a_value_that_no_game_reaches_is_named_with_its_game(tmp_path: Path) -> None:
    names = write(tmp_path / "games", x=1e30)
    summary = encode_here(tmp_path / "games", tmp_path / "out")
    assert any(f"P1 x in {names[0]}: 1 values" in warning for warning in summary.warnings)
    assert not any(f"P1 x in {names[1]}" in warning for warning in summary.warnings)


def test_games_that_the_blocks_lack_without_a_word_are_found(tmp_path: Path) -> None:
    names = write(tmp_path / "games")
    encode_here(tmp_path / "games", tmp_path / "out")
    assert verify_blocks(str(tmp_path / "out"), str(tmp_path / "games")).is_clean
    meta = json.loads((tmp_path / "games" / "meta.json").read_text())
    later = as_file(toy_columns(9, 40))
    (tmp_path / "games" / "games" / name_of(later)).write_bytes(later)
    (tmp_path / "games" / "meta.json").write_text(json.dumps([*meta, {"slp_md5": name_of(later)}]))
    report = verify_blocks(str(tmp_path / "out"), str(tmp_path / "games"))
    assert not report.is_clean
    assert report.not_encoded == [f"games/{name_of(later)}"]
    assert report.games_checked == len(names)


def test_blocks_are_never_written_among_the_games(tmp_path: Path) -> None:
    write(tmp_path / "games")
    before = sorted(path.name for path in (tmp_path / "games").iterdir())
    with pytest.raises(UserError, match="a folder of its own"):
        encode_here(tmp_path / "games", tmp_path / "games")
    assert sorted(path.name for path in (tmp_path / "games").iterdir()) == before


def test_a_sample_of_nothing_proves_nothing(tmp_path: Path) -> None:
    write(tmp_path / "games")
    encode_here(tmp_path / "games", tmp_path / "out")
    with pytest.raises(UserError, match="at least 1"):
        verify_blocks(str(tmp_path / "out"), str(tmp_path / "games"), sample=0)


def test_only_parsed_games_are_packed(tmp_path: Path) -> None:
    write(tmp_path / "games")
    pack_games(str(tmp_path / "games"), str(tmp_path / "tar"))
    with pytest.raises(UserError, match="no parsed games"):
        pack_games(str(tmp_path / "tar"), str(tmp_path / "again"))
    with pytest.raises(UserError, match="more than 0"):
        pack_games(str(tmp_path / "games"), str(tmp_path / "again"), shard_mb=0.0)
