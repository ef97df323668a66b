"""The audit finds whatever differs between blocks and their games, and names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.games_on_disk import as_file, encode_here, name_of, toy_columns, write_folder, write_games
from worldmodel.errors import UserError
from worldmodel.features.verification import audit_blocks


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    write_games(tmp_path / "games", range(5), frames=80)
    encode_here(tmp_path / "games", tmp_path / "blocks")
    return tmp_path / "games", tmp_path / "blocks"


def test_faithful_blocks_are_clean_and_everything_is_counted(folders: tuple[Path, Path]) -> None:
    games, blocks = folders
    report = audit_blocks(str(blocks), str(games))
    assert report.is_clean
    assert report.games_checked == 5
    assert report.blocks_checked == len(json.loads((blocks / "index.json").read_text())["blocks"])
    assert report.values_checked > 5 * 80 * 2 * 40
    assert report.samples_checked == 256
    assert json.loads(json.dumps(report.to_dict()))["audit"]["games"] == 5


def test_without_games_hashes_are_checked_and_the_audit_is_told(folders: tuple[Path, Path]) -> None:
    report = audit_blocks(str(folders[1]))
    assert report.is_clean and report.games_checked == 0
    assert {"ranges", "missing_in_games", "constant_fields", "repeats", "stages", "characters"} <= report.audit.keys()


def test_a_sample_compares_so_many_games(folders: tuple[Path, Path]) -> None:
    assert audit_blocks(str(folders[1]), str(folders[0]), sample=2).games_checked == 2


def test_a_changed_value_is_named_with_game_field_and_frame(folders: tuple[Path, Path]) -> None:
    games, blocks = folders
    path = sorted((games / "games").iterdir())[2]
    seed = next(n for n in range(5) if as_file(toy_columns(n, 80 + n)) == path.read_bytes())
    columns = toy_columns(seed, 80 + seed)
    columns["p1", "y"][17] += 1
    columns["p0", "controller", "buttons", "Z"][30] ^= True
    columns["items", "item_4", "x"][40] = 12.5
    columns["items", "item_4", "exists"][40] = True
    path.write_bytes(as_file(columns))
    report = audit_blocks(str(blocks), str(games))
    found = {(d.game, d.field): d.frame for d in report.differences}
    assert found[path.name, "p1.y"] == 17
    assert found[path.name, "p0.button_Z"] == 30
    assert any(game == path.name and field.startswith("items") for game, field in found)
    assert {game for game, _ in found} == {path.name}
    assert not report.is_clean


def test_a_damaged_block_is_named(folders: tuple[Path, Path]) -> None:
    path = next(folders[1].glob("*.arrow"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    report = audit_blocks(str(folders[1]), str(folders[0]))
    assert [(d.game, d.field) for d in report.differences] == [(path.name, "sha256")]
    path.unlink()
    assert "gone" in audit_blocks(str(folders[1])).differences[0].detail


def test_games_that_the_source_no_longer_has_or_cannot_read_are_named(folders: tuple[Path, Path]) -> None:
    games, blocks = folders
    first, second, *_ = sorted((games / "games").iterdir())
    first.unlink()
    second.write_bytes(b"x")
    report = audit_blocks(str(blocks), str(games))
    assert report.games_checked == 3
    assert [text.split(":")[0] for text in sorted(report.unread)] == [first.name, second.name]
    assert not report.is_clean


def test_a_game_with_other_frames_is_one_difference(tmp_path: Path) -> None:
    content = as_file(toy_columns(1, 90))
    name = name_of(content)
    write_folder(tmp_path / "games", {name: content})
    encode_here(tmp_path / "games", tmp_path / "blocks")
    write_folder(tmp_path / "games", {name: as_file(toy_columns(1, 91))})
    report = audit_blocks(str(tmp_path / "blocks"), str(tmp_path / "games"))
    assert [(d.game, d.field) for d in report.differences] == [(name, "frames")]


def test_there_must_be_blocks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no index\.json"):
        audit_blocks(str(tmp_path))
