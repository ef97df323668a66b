"""What cannot be right in the data stops an encoding and a training, until somebody allows it by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.games_on_disk import as_file, encode_here, name_of, toy_columns, write_folder
from worldmodel.blocks.alarms import check_alarms, find_alarms
from worldmodel.blocks.index import Index, read_index
from worldmodel.cli.main import main
from worldmodel.encoding import EncodingConfig
from worldmodel.errors import UserError
from worldmodel.features.split import split_games
from worldmodel.games.toy import write_toy_games
from worldmodel.schema import PLAYERS
from worldmodel.storage import Location

READ = EncodingConfig().layout.field_names
Columns = dict[tuple[str, str], np.ndarray]


def write_games(folder: Path, change: Callable[[Columns], None], count: int = 5, frames: int = 2100) -> Path:
    """Games with something done to their columns."""
    contents = []
    for seed in range(count):
        columns = toy_columns(seed, frames + seed)
        change(columns)
        contents.append(as_file(columns))
    write_folder(folder / "games", {name_of(content): content for content in contents})
    return folder / "games"


def encode_games(folder: Path, change: Callable[[Columns], None], **size: int) -> Index:
    write_games(folder, change, **size)
    encode_here(folder / "games", folder / "blocks")
    return read_index(Location.of(folder / "blocks"))


def nothing(columns: Columns) -> None:
    """As they are."""


def freeze_percent(columns: Columns) -> None:
    """A column that never changes, in either player."""
    for player in range(PLAYERS):
        columns[f"p{player}", "percent"][:] = 7


def throw_one_far(columns: Columns) -> None:
    """One value that no game reaches."""
    columns["p1", "x"][100] = 1e7


def test_sound_games_raise_no_alarm(tmp_path: Path) -> None:
    assert find_alarms(encode_games(tmp_path, nothing)) == []


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        (freeze_percent, "percent", "never changes in 5 games"),
        (throw_one_far, "x", r"5 values that no game reaches, in 5 columns, the first in p1.x in [0-9a-f]{32}"),
    ],
)
def test_a_field_that_cannot_be_right_stops_encoding_until_it_is_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Columns], None], field: str, said: str
) -> None:
    index = encode_games(tmp_path, change)
    assert [alarm.field for alarm in find_alarms(index)] == [field]
    with pytest.raises(UserError, match=rf"{field}: {said}\n.*--allow {field}"):
        check_alarms(index, READ, (), "blocks")
    assert check_alarms(index, READ - {field}, (), "blocks") == []  # nothing reads it
    assert f"allowed: {field} " in check_alarms(index, READ, (field,), "blocks")[0]
    asked = ["encode", str(tmp_path / "games"), str(tmp_path / "blocks")]
    assert main(asked) == 2
    assert f"--allow {field}" in capsys.readouterr().err
    assert main([*asked, "--allow", field]) == 0
    assert check_alarms(read_index(Location.of(tmp_path / "blocks")), READ, (), "blocks")  # the index remembers


def test_a_few_frames_may_be_constant_by_chance(tmp_path: Path) -> None:
    assert find_alarms(encode_games(tmp_path, freeze_percent, frames=300)) == []


def test_an_allowed_field_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no field 'percend' \(did you mean 'percent'\?\)"):
        check_alarms(encode_games(tmp_path, nothing, count=2, frames=50), READ, ("percend",), "blocks")


def test_a_stage_that_is_none_in_all_games_is_an_alarm() -> None:
    assert [a.field for a in find_alarms(Index(games=[], blocks=[], audit={"stages": {"stage 0": 9}}))] == ["stage"]
    assert find_alarms(Index(games=[], blocks=[], audit={"stages": {"Battlefield": 9}})) == []


def test_a_training_on_such_data_does_not_begin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encode_games(tmp_path, freeze_percent)
    file = tmp_path / "tiny.yaml"
    file.write_text(
        "model: {d_model: 32, d_state: 8, headdim: 16, n_layers: 1}\ntracking: {wandb: disabled}\n"
        "training: {max_steps: 1, sequence_length: 32, batch_size: 4, amp: false, device: cpu, threads: 1}\n"
    )
    asked = ["train", str(file), "--data", str(tmp_path / "blocks"), "--storage", str(tmp_path / "runs")]
    assert main(asked) == 2
    assert "--allow percent" in capsys.readouterr().err
    assert not (tmp_path / "runs/tiny").exists()
    assert main([*asked, "--allow", "percent"]) == 0
    assert "allowed: percent never changes" in (tmp_path / "runs/tiny/card.md").read_text()


def test_toy_games_and_real_ones_raise_no_alarm(tmp_path: Path, shared_folder: Path) -> None:
    write_toy_games(tmp_path / "toy", 4, seed=0)
    for name, source in (("toy", tmp_path / "toy"), ("real", shared_folder / "data/games")):
        encode_here(source, tmp_path / name / "blocks")
        index = read_index(Location.of(tmp_path / name / "blocks"))
        assert check_alarms(index, EncodingConfig(state_flags=True, hitstun=True).layout.field_names, (), "b") == []


@pytest.mark.parametrize("by", ["md5", "first"])
def test_a_game_that_validates_never_trains(tmp_path: Path, by: str) -> None:
    games = encode_games(tmp_path, nothing, count=6, frames=50).games
    split = split_games(games, 0.5, by)  # type: ignore[arg-type]
    assert not {g.md5 for g in split.train} & {g.md5 for g in split.validation}
    trained, validated = split.train[0], split.validation[0]
    for twin in (replace(validated, order=99), replace(validated, md5=trained.md5[::-1], digest=trained.digest)):
        everything = [g for g in games if g.md5 != validated.md5] + [validated, twin]
        if by == "md5" and twin.md5 == validated.md5:
            continue  # one hash is on one side
        with pytest.raises(UserError, match="validates and trains as well"):
            for share in (0.3, 0.5, 0.7, 0.9):
                split_games(everything, share, by)  # type: ignore[arg-type]
