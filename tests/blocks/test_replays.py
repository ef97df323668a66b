"""A folder of replays is a source like any other: parsed beside the blocks, and what gives no game is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.games_on_disk import encode_here
from worldmodel.errors import UserError
from worldmodel.games.replay_source import holds_replays
from worldmodel.storage import Location


def test_replays_are_encoded_as_the_parsed_games_they_become(tmp_path: Path, shared_folder: Path) -> None:
    pytest.importorskip("peppi_py")
    source = tmp_path / "replays"
    source.mkdir()
    chosen = sorted((shared_folder / "data" / "replays").glob("*.slp.gz"))[:3]
    doubles = shared_folder / "data" / "edge" / "b87978e29c3d11cd928dffc7870b2bfa.slp.gz"
    for path in (*chosen, doubles):
        (source / path.name).symlink_to(path)
    summary = encode_here(source, tmp_path / "out")
    parsed = encode_here(tmp_path / "out" / "parsed", tmp_path / "again")
    assert {game.md5 for game in summary.index.games} == {path.name.split(".")[0] for path in chosen}
    assert summary.index.fingerprint == parsed.index.fingerprint
    rejected = json.loads((tmp_path / "out" / "rejected.json").read_text())
    assert [entry["file"] for entry in rejected] == [doubles.name]
    assert encode_here(source, tmp_path / "out").encoded == 0


def test_replays_that_are_encoded_into_the_folder_of_others_take_their_place(
    tmp_path: Path, shared_folder: Path
) -> None:
    pytest.importorskip("peppi_py")
    replays = sorted((shared_folder / "data" / "replays").glob("*.slp.gz"), key=lambda path: path.stat().st_size)
    edge = json.loads((shared_folder / "data" / "edge" / "index.json").read_text())
    edited = next(entry["file"] for entry in edge if entry["class"] == "near_duplicate")
    original = next(path for path in replays if path.name.startswith("b0eafbef"))
    sources = {"a": [original, replays[0]], "b": [shared_folder / "data" / "edge" / edited, replays[1]]}
    for name, paths in sources.items():
        (tmp_path / name).mkdir()
        for path in paths:
            (tmp_path / name / path.name).symlink_to(path)
    encode_here(tmp_path / "a", tmp_path / "out")
    found = encode_here(tmp_path / "b", tmp_path / "out")
    fresh = encode_here(tmp_path / "b", tmp_path / "fresh")
    assert [replace(game, block="", row=0) for game in found.index.games] == [
        replace(game, block="", row=0) for game in fresh.index.games
    ]
    assert (len(found.index.games), found.index.filtered, found.rejected) == (2, [], [])
    assert {path.name for path in (tmp_path / "out/parsed/games").iterdir()} == {g.md5 for g in found.index.games}


def test_parsed_games_are_no_replays_whatever_lies_beside_them(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text("[]")
    (tmp_path / "a.slp").write_bytes(b"")
    assert not holds_replays(Location.of(tmp_path))


def test_replays_below_folders_are_found(tmp_path: Path) -> None:
    (tmp_path / "2023" / "may").mkdir(parents=True)
    (tmp_path / "2023" / "may" / "a.slp.gz").write_bytes(b"")
    assert holds_replays(Location.of(tmp_path))


@pytest.mark.parametrize(("name", "is_one"), [("a.slp", True), ("A.SLP.GZ", True), ("games.tar.gz", False)])
@pytest.mark.parametrize("below", ["", "2023/"])
def test_replays_are_told_by_their_names_in_any_case(tmp_path: Path, name: str, is_one: bool, below: str) -> None:
    (tmp_path / below).mkdir(exist_ok=True)
    (tmp_path / below / name).write_bytes(b"")
    assert holds_replays(Location.of(tmp_path)) == holds_replays(Location.of(tmp_path / below / name)) == is_one


def test_a_file_of_another_kind_is_named_as_that(tmp_path: Path) -> None:
    (tmp_path / "games.tar.gz").write_bytes(b"x")
    with pytest.raises(UserError, match=r"games\.tar\.gz is a file: expected a parsed folder"):
        encode_here(tmp_path / "games.tar.gz", tmp_path / "out")


def test_a_folder_whose_replays_give_no_game_is_refused_with_the_reason(tmp_path: Path) -> None:
    pytest.importorskip("peppi_py")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.slp").write_bytes(b"no replay")
    with pytest.raises(UserError, match="none of 1 replays"):
        encode_here(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out" / "index.json").exists()
