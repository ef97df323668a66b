"""A request that cannot be meant is refused before a game is read or a file is written."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.games_on_disk import encode_here, write_games
from worldmodel.cli.main import main
from worldmodel.errors import UserError


@pytest.mark.parametrize("share", [2.0, 1.01, -0.1, math.nan, math.inf])
def test_a_share_of_rejected_games_that_is_none_is_refused(tmp_path: Path, share: float) -> None:
    write_games(tmp_path / "games", range(1))
    with pytest.raises(UserError, match=rf"max_rejected is {share}, expected a share from 0 to 1"):
        encode_here(tmp_path / "games", tmp_path / "out", max_rejected=share)
    assert not (tmp_path / "out").exists()


def test_a_field_that_does_not_exist_is_never_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_games(tmp_path / "games", range(1))
    asked = ["encode", str(tmp_path / "games"), str(tmp_path / "out"), "--cpus", "0", "--allow", "stagee"]
    assert main(asked) == 2
    assert "no field 'stagee' (did you mean 'stage'?)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", [["encode"], ["games", "pack"]])
@pytest.mark.parametrize("empty", [0, 1])
def test_an_empty_name_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: list[str], empty: int
) -> None:
    write_games(tmp_path / "games", range(1))
    monkeypatch.chdir(tmp_path / "games")
    before = sorted(tmp_path.rglob("*"))
    places = [str(tmp_path / "games"), str(tmp_path / "out")]
    places[empty] = ""
    assert main([*verb, *places]) == 2
    assert f"the {('source', 'output')[empty]} is an empty name" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("verb", [["encode"], ["games", "pack"]])
@pytest.mark.parametrize("out", ["games", "link", "other/../games"])
def test_the_source_is_no_output_under_whatever_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: list[str], out: str
) -> None:
    write_games(tmp_path / "games", range(1))
    (tmp_path / "link").symlink_to(tmp_path / "games")
    (tmp_path / "other").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert main([*verb, str(tmp_path / "games"), str(tmp_path / out)]) == 2
    assert "named as source and as output" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
