"""What cannot be right in the data stops an encoding and a training, until somebody allows it by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.games_on_disk import as_file, encode_here, name_of, toy_columns, write_folder
from worldmodel.blocks.alarms import (
    CHANCE,
    CHOSEN,
    ENOUGH_GAMES,
    HABITS,
    SAME_PEOPLE,
    check_alarms,
    count_plausible,
    find_alarms,
)  # fmt: skip
from worldmodel.blocks.encode import EncodeOptions, encode
from worldmodel.blocks.index import GameEntry, Index, read_index
from worldmodel.cli.main import main
from worldmodel.encoding import EncodingConfig
from worldmodel.errors import UserError
from worldmodel.features.split import split_games
from worldmodel.features.verification import audit_blocks
from worldmodel.games.entry import INTERNAL_STAGES
from worldmodel.games.toy import write_toy_games
from worldmodel.schema import LEGAL_STAGES, PLAYER_FIELDS, PLAYERS
from worldmodel.storage import Location

READ = EncodingConfig().layout.field_names
Columns = dict[tuple[str, ...], np.ndarray]
ENTRY = GameEntry(
    md5="", frames=10_000, stage=31, characters=(1, 1), end_method=None, block="", row=0, order=0, source="parsed",
    source_bytes=0, shard="", repeats="none", missing=(), absent=(),
)  # fmt: skip


def write_games(
    folder: Path, change: Callable[[Columns], None], count: int = 5, frames: int = 2100, **entry: object
) -> Path:
    """Games with something done to their columns; `entry`: what meta.json says of each."""
    contents = []
    for seed in range(count):
        columns = toy_columns(seed, frames + seed)
        change(columns)
        contents.append(as_file(columns))
    files = {name_of(content): content for content in contents}
    write_folder(folder / "games", files, dict.fromkeys(files, entry))
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
        (freeze_percent, "percent", "never changes in 5 games, where more than 3 cannot be chance"),
        (
            throw_one_far,
            "x",
            r"5 values that no game reaches \(-2000 to 2000\), in 5 columns, the first in P2 x in [0-9a-f]{32}",
        ),
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


def leave_alone(*names: str) -> Callable[[Columns], None]:
    """Controls that nobody uses."""

    def change(columns: Columns) -> None:
        for path, values in columns.items():
            if path[-1] in names:
                values[:] = 0

    return change


def test_a_button_that_nobody_pressed_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_games(tmp_path, leave_alone("Z", "D_UP"), count=22, frames=500)
    assert main(["encode", str(tmp_path / "games"), str(tmp_path / "blocks"), "--cpus", "1", "--json"]) == 0
    assert "constant in all 22 games: button_Z, button_D_UP" in json.loads(capsys.readouterr().out)["warnings"]
    assert audit_blocks(str(tmp_path / "blocks")).is_clean


@pytest.mark.parametrize("field", [f.name for f in PLAYER_FIELDS])
def test_a_constant_field_is_a_fault_from_a_number_of_games_on(field: str) -> None:
    def find(games: float) -> list[str]:
        index = Index(games=[ENTRY] * int(games), blocks=[], audit={"constant_fields": [field]})
        return [alarm.field for alarm in find_alarms(index)]

    most = count_plausible(field)
    if most == math.inf:
        assert field in CHOSEN and find(1000) == []
        return
    assert find(most) == [] and find(most + 1) == [field]
    assert most == ENOUGH_GAMES - 1 or HABITS[field] ** ((most + 1) / SAME_PEOPLE) <= CHANCE < 1


def stretch(name: str, scale: float, shift: float = 0.0) -> Callable[[Columns], None]:
    """A column in another unit."""

    def change(columns: Columns) -> None:
        for path in [path for path in columns if ".".join(path).endswith(name)]:
            columns[path] = (columns[path] * scale + shift).astype(np.float32)

    return change


def put(name: str, value: float) -> Callable[[Columns], None]:
    """One value among others."""

    def change(columns: Columns) -> None:
        columns["p0", *name.split(".")][7] = value

    return change


WRONG = {
    "sticks of a replay": (stretch("controller.main_stick.x", 2, -1), "main_stick_x"),
    "c-sticks of a replay": (stretch("controller.c_stick.y", 2, -1), "c_stick_y"),
    "triggers in steps": (stretch("controller.shoulder", 140), "shoulder"),
    "one odd stick": (put("controller.main_stick.y", 40.5), "main_stick_y"),
    "shield beyond full": (put("shield_strength", 61), "shield_strength"),
    "shield below none": (put("shield_strength", -1), "shield_strength"),
    "too many stocks": (put("stocks", 200), "stocks"),
    "an action that nobody has": (put("action", 5000), "action"),
    "an unknown character": (put("character", 200), "character"),
}


@pytest.mark.parametrize("what", WRONG)
def test_values_that_no_game_has_are_refused_in_any_number_of_games(tmp_path: Path, what: str) -> None:
    change, field = WRONG[what]
    index = encode_games(tmp_path, change, count=1, frames=60)
    assert [alarm.field for alarm in find_alarms(index)] == [field]
    assert [line.partition(":")[0] for line in audit_blocks(str(tmp_path / "blocks")).alarms] == [field]


def play_on(stage: int) -> Callable[[Columns], None]:
    """All games on one stage."""

    def change(columns: Columns) -> None:
        columns["stage",][:] = stage

    return change


@pytest.mark.parametrize(("internal", "ours"), INTERNAL_STAGES.items())
def test_an_internal_stage_is_mapped_where_meta_json_tells(tmp_path: Path, internal: int, ours: int) -> None:
    write_games(tmp_path, play_on(internal), count=2, frames=50, stage=ours)
    index = encode_here(tmp_path / "games", tmp_path / "blocks").index
    assert {game.stage for game in index.games} == {ours} and find_alarms(index) == []
    assert list(index.audit["stages"]) == [LEGAL_STAGES[ours]]


@pytest.mark.parametrize(
    ("held", "said", "text"),
    [
        (3, 31, r"holds Pokemon Stadium, meta.json says stage 31 \(Battlefield\)"),
        (8, 32, "hold another stage than their meta.json says"),
        (25, None, "look like the game's internal numbers"),
        (9, None, "Onett in all games, which is no tournament stage"),
    ],
)
def test_a_stage_in_doubt_stops_encoding(tmp_path: Path, held: int, said: int | None, text: str) -> None:
    write_games(tmp_path, play_on(held), count=2, frames=50, stage=said)
    asked = EncodeOptions(cpus=0, read=READ)
    with pytest.raises(UserError, match=rf"(?s)stage: .*{text}.*--allow stage"):
        encode(str(tmp_path / "games"), str(tmp_path / "blocks"), asked)
    encode(str(tmp_path / "games"), str(tmp_path / "blocks"), replace(asked, allow=("stage",)))


def test_games_of_other_characters_than_meta_json_says_are_named(tmp_path: Path) -> None:
    def play(columns: Columns) -> None:
        for player in range(PLAYERS):
            columns[f"p{player}", "character"][:] = 22

    for number, said in enumerate((22, 20, 5)):  # ours, the start block's number of Falco, and Bowser
        write_games(tmp_path / str(number), play, count=1, frames=50, players=[{"character": said}] * 2)
        summary = encode_here(tmp_path / str(number) / "games", tmp_path / str(number) / "blocks")
        named = "it holds Falco and Falco, meta.json says character 5 (Bowser)"
        assert any(named in text for text in summary.warnings) == (said == 5)


def test_refused_games_do_not_remain_as_if_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_games(tmp_path, throw_one_far, count=2, frames=150)
    games, blocks = str(tmp_path / "games"), str(tmp_path / "blocks")
    asked = EncodeOptions(cpus=0, read=READ)
    for _ in range(2):
        with pytest.raises(UserError, match="--allow x"):
            encode(games, blocks, asked)
        assert main(["audit", blocks]) == 2
        assert "encoding has refused" in capsys.readouterr().err
    summary = encode(games, blocks, replace(asked, allow=("x",)))
    assert summary.encoded == 0 and len(summary.index.games) == 2
    assert main(["audit", blocks]) == 0


def test_an_accepted_data_set_outlives_a_refused_one(tmp_path: Path) -> None:
    write_games(tmp_path, nothing, count=2, frames=50)
    games, blocks = str(tmp_path / "games"), str(tmp_path / "blocks")
    asked = EncodeOptions(cpus=0, read=READ)
    before = encode(games, blocks, asked).index
    write_games(tmp_path, throw_one_far, count=3, frames=160)
    with pytest.raises(UserError, match="--allow x"):
        encode(games, blocks, asked)
    assert read_index(Location.of(blocks)) == before and audit_blocks(blocks).is_clean


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
