"""Encoding again, after any change to the source, gives the data set that a new encoding would."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.games_on_disk import as_file, encode_here, name_of, toy_columns, write_folder, write_games
from worldmodel.blocks.index import GameEntry, Index
from worldmodel.games.tar import pack_games


def make_game(seed: int) -> bytes:
    """A game without a hit, whose hitlag counts as missing where meta.json says so."""
    columns = toy_columns(seed, 30)
    for player in ("p0", "p1"):
        columns[player, "hitlag"][:] = columns[player, "percent"][:] = 0
    return as_file(columns)


GAMES = {name_of(content): content for content in map(make_game, range(3))}
FIRST = next(iter(GAMES))
CHANGES: dict[str, dict[str, Any]] = {
    "how it ended": {"game_end_method": 7},
    "where it was played": {"played_on": "toy"},
    "a field that is missing": {"missing_fields": ["hitlag"]},
    "a version without that field": {"slippi_version": "2.0.0"},
    "no training": {"is_training": False},
    "frame ids": {"has_ids": True},
}


def describe(index: Index) -> tuple[list[GameEntry], str, list[Any]]:
    """A data set but for where in its blocks the games lie."""
    return [replace(game, block="", row=0) for game in index.games], index.fingerprint, index.filtered


def write_meta(folder: Path, entries: list[dict[str, Any]]) -> None:
    write_folder(folder, GAMES)
    (folder / "meta.json").write_text(json.dumps(entries))
    (folder / "frame_ids").mkdir(exist_ok=True)
    for path in (folder / "frame_ids").iterdir():
        path.unlink()
    for entry in entries:
        if entry.get("has_ids"):
            np.save(folder / "frame_ids" / f"{entry['slp_md5']}.npy", np.r_[0:29, 28].astype(np.int32))


@pytest.mark.parametrize("is_first", [True, False], ids=["taken back", "said later"])
@pytest.mark.parametrize("change", CHANGES)
def test_whatever_the_source_says_later_counts_as_if_it_had_always_said_so(
    tmp_path: Path, change: str, is_first: bool
) -> None:
    plain = [{"slp_md5": name} for name in GAMES]
    changed = [{"slp_md5": name, **(CHANGES[change] if name == FIRST else {})} for name in reversed(GAMES)]
    for meta in (changed, plain) if is_first else (plain, changed):
        write_meta(tmp_path / "games", meta)
        found = encode_here(tmp_path / "games", tmp_path / "out")
    fresh = encode_here(tmp_path / "games", tmp_path / "fresh")
    assert describe(found.index) == describe(fresh.index)
    assert found.index.audit["missing_in_games"] == fresh.index.audit["missing_in_games"]
    assert bool(fresh.index.audit["missing_in_games"]) == ("field" in change and not is_first)


def test_games_that_are_named_in_front_later_stand_in_front(tmp_path: Path) -> None:
    write_meta(tmp_path / "games", [{"slp_md5": name} for name in list(GAMES)[1:]])
    encode_here(tmp_path / "games", tmp_path / "out")
    write_meta(tmp_path / "games", [{"slp_md5": name, "game_end_method": 7} for name in GAMES])
    found = encode_here(tmp_path / "games", tmp_path / "out")
    assert found.encoded == 1
    assert [(game.md5, game.end_method) for game in found.index.games] == [(name, 7) for name in GAMES]


def pack(folder: Path, name: str, seeds: range, out: Path) -> None:
    """Games as one shard of that name."""
    write_games(folder / name, seeds)
    pack_games(str(folder / name), str(folder / f"{name}-packed"))
    out.mkdir(exist_ok=True)
    (folder / f"{name}-packed" / "shard-000000.tar").rename(out / f"{name}.tar")


def test_a_shard_that_comes_before_the_others_later_stands_before_them(tmp_path: Path) -> None:
    pack(tmp_path, "b", range(3), tmp_path / "shards")
    encode_here(tmp_path / "shards", tmp_path / "out")
    pack(tmp_path, "a", range(2, 5), tmp_path / "shards")  # the last game of b as well
    found = encode_here(tmp_path / "shards", tmp_path / "out", max_rejected=0.5)
    fresh = encode_here(tmp_path / "shards", tmp_path / "fresh", max_rejected=0.5)
    assert describe(found.index) == describe(fresh.index)
    assert found.rejected == fresh.rejected
    assert (found.encoded, [game.shard for game in found.index.games]) == (3, ["a.tar"] * 3 + ["b.tar"] * 2)


def test_a_shard_of_another_content_is_read_again_though_name_and_size_are_the_same(tmp_path: Path) -> None:
    names = write_games(tmp_path / "games", range(3))
    meta = tmp_path / "games" / "meta.json"
    sizes = []
    for flag in (True, False):
        second = {"slp_md5": names[1], "is_training": flag, "note": "x" * flag}
        meta.write_text(json.dumps([{"slp_md5": names[0]}, second, {"slp_md5": names[2]}]))
        pack_games(str(tmp_path / "games"), str(tmp_path / f"{flag}"))
        (tmp_path / "shards").mkdir(exist_ok=True)
        (tmp_path / f"{flag}" / "shard-000000.tar").replace(tmp_path / "shards" / "a.tar")
        sizes.append((tmp_path / "shards" / "a.tar").stat().st_size)
        found = encode_here(tmp_path / "shards", tmp_path / "out")
    assert sizes[0] == sizes[1]
    assert [game.md5 for game in found.index.games] == [names[0], names[2]]


def test_a_shard_that_only_lies_elsewhere_is_not_read_again(tmp_path: Path) -> None:
    pack(tmp_path, "a", range(2), tmp_path / "shards")
    encode_here(tmp_path / "shards", tmp_path / "out")
    (tmp_path / "shards").rename(tmp_path / "moved")
    assert encode_here(tmp_path / "moved", tmp_path / "out").encoded == 0
    os.utime(tmp_path / "moved" / "a.tar", ns=(1, 1))  # a copy that does not keep the time
    again = encode_here(tmp_path / "moved", tmp_path / "out")
    assert (again.encoded, encode_here(tmp_path / "moved", tmp_path / "out").encoded) == (2, 0)
