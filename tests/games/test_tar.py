"""Packing a folder into tar shards keeps the data set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.games_on_disk import as_file, encode_here, name_of, toy_columns, write_folder, write_games
from worldmodel.blocks.block import read_stored_games
from worldmodel.errors import UserError
from worldmodel.games.planes import has_same_bits
from worldmodel.games.tar import pack_games
from worldmodel.storage import Location


def test_packed_games_give_the_same_data_set_as_their_folder(tmp_path: Path) -> None:
    source = tmp_path / "games"
    names = write_games(source, range(7))
    meta = json.loads((source / "meta.json").read_text())
    meta[2] |= {"is_training": False, "not_training_reason": "too short"}
    meta[4] |= {"game_end_method": 7, "missing_fields": ["hitlag"]}
    (source / "meta.json").write_text(json.dumps(meta))
    (source / "frame_ids").mkdir()
    frames = 40 + 3
    np.save(source / "frame_ids" / f"{names[3]}.npy", np.r_[0:20, 18 : frames - 2].astype(np.int32))
    summary = pack_games(str(source), str(tmp_path / "shards"), shard_mb=0.05)
    assert (summary.games, summary.rejected) == (7, 0) and summary.shards > 1
    loose, packed = (encode_here(tmp_path / name, tmp_path / f"{name}-blocks") for name in ("games", "shards"))
    assert loose.index.fingerprint == packed.index.fingerprint
    assert [f["reason"] for f in packed.index.filtered] == ["not for training: too short"]
    assert {g.repeats for g in packed.index.games} == {"unknown", "2 dropped"}
    kinds = ("games", "shards")
    first, second = (
        {g.md5: g for g in read_stored_games(Location.of(tmp_path / f"{kind}-blocks"), index.games)}
        for kind, index in zip(kinds, (loose.index, packed.index), strict=True)
    )
    assert first.keys() == second.keys() == set(names) - {names[2]}
    for name, game in first.items():
        other = second[name]
        assert all(has_same_bits(values, other.columns[key]) for key, values in game.columns.items())
        assert game.sparse.keys() == other.sparse.keys()
        for group, rows in game.sparse.items():
            assert all(has_same_bits(values, other.sparse[group].values[key]) for key, values in rows.values.items())
        assert (game.repeats, game.missing) == (other.repeats, other.missing)
    assert [g.md5 for g in packed.index.games] == [g.md5 for g in loose.index.games]
    ends = {g.md5: g.end_method for g in packed.index.games}
    assert ends == {g.md5: g.end_method for g in loose.index.games} and ends[names[4]] == 7


@pytest.mark.parametrize("held", ["shard-000000.tar", "other.tar", "meta.json"])
def test_games_are_never_packed_beside_others(tmp_path: Path, held: str) -> None:
    write_games(tmp_path / "games", range(2))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / held).write_text("keep")
    with pytest.raises(UserError, match=rf"out holds games already \({held}\), .*: delete them first, or name another"):
        pack_games(str(tmp_path / "games"), str(tmp_path / "out"))
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {held: "keep"}


def test_a_game_whose_name_a_shard_would_cut_is_rejected_and_not_packed(tmp_path: Path) -> None:
    contents = [as_file(toy_columns(seed, 30)) for seed in range(2)]
    write_folder(tmp_path / "games", {name_of(contents[0]): contents[0], "game.0": contents[1]})
    assert pack_games(str(tmp_path / "games"), str(tmp_path / "out")).rejected == 1
    (rejected,) = json.loads((tmp_path / "out" / "rejected.json").read_text())
    assert rejected["file"] == "games/game.0" and "one without, in meta.json as well" in rejected["reason"]
    assert [g.md5 for g in encode_here(tmp_path / "out", tmp_path / "blocks").index.games] == [name_of(contents[0])]
    write_folder(tmp_path / "dots", {"game.0": contents[0]})
    with pytest.raises(UserError, match=r"no game could be packed, the first because: .* first dot"):
        pack_games(str(tmp_path / "dots"), str(tmp_path / "none"))


def test_what_a_folder_lacks_is_named_when_it_is_packed(tmp_path: Path) -> None:
    content = as_file(toy_columns(1, 30))
    write_folder(tmp_path / "games", {name_of(content): content})
    meta = tmp_path / "games" / "meta.json"
    meta.write_text(json.dumps([*json.loads(meta.read_text()), {"slp_md5": "0" * 32}]))
    summary = pack_games(str(tmp_path / "games"), str(tmp_path / "shards"))
    assert (summary.games, summary.rejected, summary.shards) == (1, 1, 1)
    (rejected,) = json.loads((tmp_path / "shards" / "rejected.json").read_text())
    assert "no such file" in rejected["reason"]
