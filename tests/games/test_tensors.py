"""The users' encoded `.pt`: imported games show the very features that it stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.games_on_disk import as_file, encode_here, name_of, toy_columns, write_folder
from worldmodel.blocks.index import Index
from worldmodel.encoding import EncodingConfig
from worldmodel.errors import UserError
from worldmodel.features.plan import Samples
from worldmodel.features.store import FrameStore, StoreOptions
from worldmodel.features.view import Decoded, FeatureView
from worldmodel.games.tensors import iterate_tensors
from worldmodel.schema import AIRBORNE, PLAYER_FIELDS, PLAYERS
from worldmodel.storage import Location

LENGTHS = (30, 41, 52)
CONFIGS = {
    "baseline": EncodingConfig(),
    "1a": EncodingConfig(state_age_as_embed=True),
    "2a": EncodingConfig(press_events=True),
    "3a": EncodingConfig(lookahead=1),
    "1a2a": EncodingConfig(state_age_as_embed=True, press_events=True),
    "3a1a": EncodingConfig(state_age_as_embed=True, lookahead=1),
    "3a1a2a": EncodingConfig(state_age_as_embed=True, press_events=True, lookahead=1),
    "v3": EncodingConfig(state_flags=True, hitstun=True),
    "v3proj": EncodingConfig(state_flags=True, hitstun=True, projectiles=True),
}


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Index]:
    folder = tmp_path_factory.mktemp("toys")
    files = [as_file(toy_columns(seed, frames)) for seed, frames in enumerate(LENGTHS)]
    write_folder(folder / "games", {name_of(content): content for content in files})
    return folder / "blocks", encode_here(folder / "games", folder / "blocks").index


def decode(folder: Path, index: Index, config: EncodingConfig) -> list[Decoded]:
    """Features of each whole game, shortest first."""
    games = sorted(index.games, key=lambda game: game.frames)
    store, view = FrameStore(folder, index, games, StoreOptions(with_items=True)), FeatureView(config)
    zero = np.zeros(1, dtype=np.int64)
    return [view.decode(store, Samples(zero + n, zero), game.frames) for n, game in enumerate(games)]


def as_payload(decoded: list[Decoded], saved: dict[str, Any]) -> dict[str, Any]:
    """What the users' encoder saves."""
    lengths = torch.tensor([game.numbers.shape[1] for game in decoded])
    return {
        "floats": torch.cat([game.numbers[0] for game in decoded]),
        "ints": torch.cat([game.classes[0] for game in decoded]),
        "game_offsets": torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
        "game_lengths": lengths.tolist(),
        "num_games": len(decoded),
        "encoding_config": saved,
    }


def save(path: Path, payload: object) -> Path:
    torch.save(payload, path)
    return path


@pytest.mark.parametrize("is_named", [True, False], ids=["all flags named", "few flags named"])
@pytest.mark.parametrize("name", CONFIGS)
def test_features_after_the_import_are_those_stored(
    toys: tuple[Path, Index], tmp_path: Path, name: str, is_named: bool
) -> None:
    config = CONFIGS[name]
    before = decode(*toys, config)
    saved: dict[str, Any] = {"xy_scale": 0.05, "percent_scale": 0.01}
    if is_named:
        saved |= {flag: getattr(config, flag) for flag in EncodingConfig.__dataclass_fields__}
    index = encode_here(save(tmp_path / "games.pt", as_payload(before, saved)), tmp_path / "out").index
    assert [game.frames for game in index.games] == list(LENGTHS)
    assert {(game.source, game.shard) for game in index.games} == {("tensors", "games.pt")}
    after = decode(tmp_path / "out", index, config)
    layout = config.layout
    nearest = torch.zeros(layout.float_width, dtype=torch.bool)
    for player in range(PLAYERS):
        start = player * layout.float_width // PLAYERS + len(layout.continuous)
        nearest[start : start + layout.continuous_width - len(layout.continuous)] = True
    for first, second in zip(before, after, strict=True):
        torch.testing.assert_close(first.numbers[..., ~nearest], second.numbers[..., ~nearest], rtol=1e-6, atol=1e-7)
        assert torch.equal(first.classes, second.classes)
        assert not second.numbers[..., nearest].any()


def test_what_the_encoding_left_out_is_named_and_not_learned_as_zeros(toys: tuple[Path, Index], tmp_path: Path) -> None:
    payload = as_payload(decode(*toys, EncodingConfig()), {})
    index = encode_here(save(tmp_path / "games.pt", payload), tmp_path / "out").index
    switched = {f"p{p}.{f.name}" for p in range(PLAYERS) for f in PLAYER_FIELDS if f.switch}
    for game in index.games:
        assert set(game.missing) == switched
        assert set(game.absent) == switched | {"items", "nana", "randall", "fod_platforms"}


def test_whole_numbers_come_back_whole(toys: tuple[Path, Index], tmp_path: Path) -> None:
    payload = as_payload(decode(*toys, EncodingConfig()), {})
    index = encode_here(save(tmp_path / "games.pt", payload), tmp_path / "out").index
    assert {block.layout for block in index.blocks} == {"tight"}


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32])
def test_classes_come_back_whatever_integer_type_holds_them(
    toys: tuple[Path, Index], tmp_path: Path, kind: torch.dtype
) -> None:
    payload = as_payload(decode(*toys, EncodingConfig()), {})
    payload["ints"] = payload["ints"] % 256  # classes that every type holds
    payload["ints"][3, [field.name for field in EncodingConfig().layout.categories].index("ground")] = 0
    narrow = {**payload, "ints": payload["ints"].to(kind)}
    (tmp_path / "narrow").mkdir()
    wide, found = (
        list(iterate_tensors(Location.of(save(tmp_path / name / "games.pt", content))))
        for name, content in ((".", payload), ("narrow", narrow))
    )
    assert wide[0].columns[0, "ground"][3] == AIRBORNE
    for first, second in zip(wide, found, strict=True):
        assert first.planes.is_same(second.planes)


def test_importing_twice_encodes_nothing_again(toys: tuple[Path, Index], tmp_path: Path) -> None:
    path = save(tmp_path / "games.pt", as_payload(decode(*toys, EncodingConfig()), {}))
    first = encode_here(path, tmp_path / "out")
    second = encode_here(path, tmp_path / "out")
    assert (first.encoded, second.encoded) == (3, 0)
    assert first.index.fingerprint == second.index.fingerprint


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"encoding_config": {"state_age_as_embed": True}}, "does not fit its tensors"),
        ({"encoding_config": {"state_flags": True}}, "does not fit its tensors"),
        ({"encoding_config": {"xy_scale": 0.1}}, "encoded with xy_scale 0.1, the schema's is 0.05"),
        ({"encoding_config": [1]}, "encoding_config is a list"),
        ({"floats": [1.0]}, "floats is list"),
        ({"floats": torch.zeros(123)}, "floats is torch.float32"),
        ({"floats": torch.zeros(123, 58, dtype=torch.float64)}, "floats is torch.float64"),
        ({"ints": torch.zeros(123, 15)}, "ints is torch.float32"),
        ({"floats": torch.zeros(122, 58)}, "game_lengths add up to 123, floats has 122 frames"),
        ({"game_lengths": [30, 41, 51]}, "game_lengths add up to 122"),
        ({"game_lengths": [-30, 101, 52]}, "game_lengths add up to 123"),
        ({"game_offsets": torch.tensor([0, 31, 71])}, "game_offsets do not follow"),
        ({"game_lengths": torch.ones(1, dtype=torch.int64).expand(10_000_000)}, "game_lengths claims 80000000 bytes"),
        ({"game_offsets": torch.ones(1, dtype=torch.int64).expand(10_000_000)}, "game_offsets claims 80000000 bytes"),
        ({"game_lengths": bytearray(123)}, "game_lengths is a bytearray"),
        ({"num_games": 4}, "num_games is 4"),
        ({"floats": None}, "floats is NoneType"),
    ],
)
def test_a_file_that_disagrees_with_itself_is_a_users_error(
    toys: tuple[Path, Index], tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    payload = as_payload(decode(*toys, EncodingConfig()), {}) | change
    with pytest.raises(UserError, match=reason):
        encode_here(save(tmp_path / "games.pt", payload), tmp_path / "out")
    assert not (tmp_path / "out" / "index.json").exists()


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({"a": 1}, "lacks floats, ints, game_lengths, encoding_config"),
        ([1, 2], "lacks floats"),
        (Path("x"), "not a readable"),
    ],
)
def test_a_pt_that_holds_something_else_is_a_users_error(tmp_path: Path, payload: object, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        encode_here(save(tmp_path / "games.pt", payload), tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut"])
def test_a_file_that_is_no_pt_is_a_users_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "games.pt").write_bytes(content)
    with pytest.raises(UserError, match="not a readable"):
        encode_here(tmp_path / "games.pt", tmp_path / "out")


def test_a_game_with_impossible_values_is_rejected_alone(toys: tuple[Path, Index], tmp_path: Path) -> None:
    payload = as_payload(decode(*toys, EncodingConfig()), {})
    payload["floats"][5, 1] = torch.nan
    payload["ints"][32, -1] += 1
    summary = encode_here(save(tmp_path / "games.pt", payload), tmp_path / "out", max_rejected=0.9)
    assert [game.frames for game in summary.index.games] == [LENGTHS[2]]
    assert [(r.file, r.reason.split(",")[0]) for r in summary.rejected] == [
        ("games.pt/game 0", "P1 x has 1 non-finite values"),
        ("games.pt/game 1", "its stage is not one class below 33 in all frames"),
    ]


def test_a_flag_that_is_neither_on_nor_off_rejects_its_game(toys: tuple[Path, Index], tmp_path: Path) -> None:
    payload = as_payload(decode(*toys, EncodingConfig(state_flags=True)), {})
    payload["floats"][3, len(EncodingConfig().layout.continuous) + 4] = 0.7
    summary = encode_here(save(tmp_path / "games.pt", payload), tmp_path / "out", max_rejected=0.9)
    assert [r.reason for r in summary.rejected] == ["state_flags_0 holds a flag that is neither 0 nor 1"]
