"""Features are the same whatever layout, block or memory the frames lie in, and are what the game's values say."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.games_on_disk import Columns, as_file, encode_here, name_of, toy_columns, write_folder
from tests.training.tiny_runs import write_blocks
from worldmodel.blocks.block import Block
from worldmodel.blocks.index import Index, read_index
from worldmodel.encoding import EncodingConfig
from worldmodel.errors import UserError
from worldmodel.features.plan import Plan, Samples, SampleShape
from worldmodel.features.store import FrameStore, StoreOptions
from worldmodel.features.view import FeatureView
from worldmodel.schema import AIRBORNE, PLAYERS, field_named
from worldmodel.storage import Location

EVERYTHING = EncodingConfig(press_events=True, lookahead=1, projectiles=True, state_flags=True, hitstun=True)
CONFIGS = [EncodingConfig(), EVERYTHING, EncodingConfig(state_age_as_embed=True, projectiles=True)]
FRAMES = 60
SHAPES = [
    SampleShape(mode="window", context=10, length=1),
    SampleShape(mode="sequence", context=10, length=16),
    SampleShape(mode="sequence", context=10, length=100),
]


def write(folder: Path, games: list[Columns]) -> Index:
    files = [as_file(columns) for columns in games]
    write_folder(folder / "games", {name_of(content): content for content in files})
    return encode_here(folder / "games", folder / "out").index


def forced_wide(columns: Columns) -> Columns:
    """The same game, but for one stick value in its last frame that no console produces."""
    stick = columns["p1", "controller", "c_stick", "y"].copy()
    stick[-1] = 0.123
    return {**columns, ("p1", "controller", "c_stick", "y"): stick}


def open_store(folder: Path, index: Index, resident_bytes: int = 1 << 40) -> FrameStore:
    return FrameStore(folder / "out", index, index.games, StoreOptions(with_items=True, resident_bytes=resident_bytes))


def whole_games(index: Index, frames: int = FRAMES) -> Samples:
    order = sorted(range(len(index.games)), key=lambda n: index.games[n].order)
    return Samples(np.array(order), np.zeros(len(order), dtype=np.int64))


@pytest.mark.parametrize("config", CONFIGS, ids=["base", "everything", "age"])
def test_a_game_has_the_same_features_in_the_tight_and_in_the_wide_layout(
    tmp_path: Path, config: EncodingConfig
) -> None:
    games = [toy_columns(seed, FRAMES) for seed in range(4)]
    tight, wide = write(tmp_path / "a", games), write(tmp_path / "b", [forced_wide(game) for game in games])
    assert {b.layout for b in tight.blocks} == {"tight"} and {b.layout for b in wide.blocks} == {"wide"}
    view = FeatureView(config)
    first = view.decode(open_store(tmp_path / "a", tight), whole_games(tight), FRAMES - 1)
    second = view.decode(open_store(tmp_path / "b", wide), whole_games(wide), FRAMES - 1)
    assert torch.equal(first.numbers, second.numbers)
    assert torch.equal(first.classes, second.classes)


@pytest.mark.parametrize("shape", SHAPES, ids=["window", "sequence", "padded"])
@pytest.mark.parametrize("config", CONFIGS, ids=["base", "everything", "age"])
def test_a_batch_of_mixed_layouts_is_what_its_samples_are_alone(
    tmp_path: Path, config: EncodingConfig, shape: SampleShape
) -> None:
    games = [toy_columns(seed, FRAMES + seed) for seed in range(6)]
    index = write(tmp_path, [forced_wide(game) if n % 2 else game for n, game in enumerate(games)])
    assert {b.layout for b in index.blocks} == {"tight", "wide"}
    shape = SampleShape(mode=shape.mode, context=shape.context, length=shape.length, lookahead=config.lookahead)
    samples = Plan(index.games, shape, 40, 0).global_batch(0)
    view = FeatureView(config)
    resident, mapped = open_store(tmp_path, index), open_store(tmp_path, index, 0)
    assert resident.is_resident and not mapped.is_resident
    together = view.view(resident, samples, shape)
    for other in (view.view(mapped, samples, shape), *_one_by_one(view, resident, samples, shape)):
        assert_same(together, other)


@pytest.mark.parametrize("config", CONFIGS, ids=["base", "everything", "age"])
def test_swapped_samples_are_those_of_a_game_whose_players_sat_the_other_way_round(
    tmp_path: Path, config: EncodingConfig
) -> None:
    games = [toy_columns(seed, FRAMES) for seed in range(3)]
    own, other = write(tmp_path / "a", games), write(tmp_path / "b", [exchanged(game) for game in games])
    shape = SampleShape(mode="sequence", context=10, length=16, lookahead=config.lookahead)
    samples = Samples(np.repeat(whole_games(own).games, 2), np.array([0, 16] * 3))
    chosen = np.array([True, False, False, True, True, False])
    there = whole_games(other).games[np.arange(6) // 2]
    view = FeatureView(config)
    found = view.view(open_store(tmp_path / "a", own), replace(samples, swapped=chosen), shape)
    plain = view.view(open_store(tmp_path / "a", own), samples, shape)
    expected = view.view(open_store(tmp_path / "b", other), Samples(there, samples.starts), shape)
    for mask, side in ((chosen, expected), (~chosen, plain)):
        assert_same(_pick(found, mask), _pick(side, mask))
    assert not torch.equal(plain[0].floats[chosen], expected[0].floats[chosen])


def exchanged(columns: Columns) -> Columns:
    """The same game with player 0 as player 1."""
    other = {"p0": "p1", "p1": "p0"}
    return {path: columns[(other.get(path[0], path[0]), *path[1:])] for path in columns}


def _pick(batch: tuple, mask: np.ndarray) -> tuple:
    """Some samples of inputs and targets."""
    return tuple(
        type(part)(
            **{
                name: {term: t[mask] for term, t in value.items()} if isinstance(value, dict) else value[mask]
                for name, value in vars(part).items()
            }
        )
        for part in batch
    )


def _one_by_one(view: FeatureView, store: FrameStore, samples: Samples, shape: SampleShape) -> list:
    parts = [
        view.view(store, Samples(samples.games[n : n + 1], samples.starts[n : n + 1]), shape)
        for n in range(len(samples))
    ]
    return [tuple(_join([part[half] for part in parts]) for half in range(2))]


def _join(parts: list) -> dict:
    names = vars(parts[0])
    return {
        name: torch.cat([getattr(part, name) for part in parts])
        if isinstance(value, torch.Tensor)
        else {term: torch.cat([getattr(part, name)[term] for part in parts]) for term in value}
        for name, value in names.items()
    }


def assert_same(first: tuple, second: tuple) -> None:
    for a, b in zip(first, second, strict=True):
        one, other = (x if isinstance(x, dict) else vars(x) for x in (a, b))
        for name, value in one.items():
            pairs = (
                [(value, other[name])]
                if isinstance(value, torch.Tensor)
                else [(value[t], other[name][t]) for t in value]
            )
            for left, right in pairs:
                assert torch.equal(left, right), name


def test_positions_deltas_and_classes_are_those_of_the_file(tmp_path: Path) -> None:
    columns = toy_columns(5, FRAMES)
    columns["p0", "ground"][::3] = AIRBORNE
    columns["p1", "action"][7] = 9999
    index = write(tmp_path, [columns])
    shape = SampleShape(mode="sequence", context=10, length=FRAMES - 1)
    samples = Samples(np.array([0]), np.array([0]))
    _, targets = FeatureView(EncodingConfig()).view(open_store(tmp_path, index), samples, shape)
    for player in range(PLAYERS):
        for place, name in ((1, "x"), (2, "y")):
            scaled = columns[f"p{player}", name] * np.float32(field_named(name).scale)
            assert np.array_equal(targets.numbers["continuous"][0, :, player, place].numpy(), np.diff(scaled))
        ground = columns[f"p{player}", "ground"].astype(np.int64)
        expected = np.where(ground == AIRBORNE, 0, np.minimum(ground + 1, field_named("ground").vocabulary - 1))
        assert np.array_equal(targets.classes["ground"][0, :, player].numpy(), expected[1:])
        action = np.minimum(columns[f"p{player}", "action"], field_named("action").vocabulary - 1)
        assert np.array_equal(targets.classes["action"][0, :, player].numpy(), action[1:])
        assert np.array_equal(targets.previous_action[0, :, player].numpy(), action[:-1])


def test_presses_are_the_buttons_that_go_down(tmp_path: Path) -> None:
    columns = toy_columns(6, FRAMES)
    index = write(tmp_path, [columns])
    config = EncodingConfig(press_events=True)
    shape = SampleShape(mode="sequence", context=10, length=FRAMES - 1)
    inputs, _ = FeatureView(config).view(open_store(tmp_path, index), Samples(np.array([0]), np.array([0])), shape)
    buttons = config.layout.buttons
    for player in range(PLAYERS):
        for place, button in enumerate(buttons):
            down = columns[f"p{player}", *button.column]
            at = PLAYERS * len(config.layout.controls) + player * len(buttons) + place
            assert np.array_equal(inputs.controls[0, :, at].numpy() > 0, down[1:] & ~down[:-1])


def test_the_nearest_item_is_the_nearest_of_those_that_exist(tmp_path: Path) -> None:
    columns = toy_columns(7, FRAMES)
    index = write(tmp_path, [columns])
    config = EncodingConfig(projectiles=True)
    found = FeatureView(config).decode(open_store(tmp_path, index), Samples(np.array([0]), np.array([0])), FRAMES)
    width = config.layout.float_width // PLAYERS
    at = len(config.layout.continuous)
    exists = np.stack([columns["items", f"item_{slot}", "exists"] for slot in range(15)], 1)
    assert exists.any() and not exists.all()
    for player in range(PLAYERS):
        offsets = [
            np.stack([columns["items", f"item_{n}", axis] - columns[f"p{player}", axis] for n in range(15)], 1)
            for axis in "xy"
        ]
        far = np.where(exists, np.hypot(*(o.astype(np.float64) for o in offsets)), np.inf)
        numbers = found.numbers[0, :, player * width + at : player * width + at + 3].numpy()
        nearest = far.argmin(1)
        for place in range(2):
            expected = np.where(exists.any(1), offsets[place][np.arange(FRAMES), nearest] * 0.05, 0)
            np.testing.assert_allclose(numbers[:, place], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(numbers[:, 2], exists.sum(1) * 0.1, rtol=1e-6)


def test_a_field_that_a_game_lacks_is_not_present_in_its_targets(tmp_path: Path) -> None:
    whole = toy_columns(8, FRAMES)
    lacking = {path: v for path, v in toy_columns(9, FRAMES).items() if path != ("p1", "hitlag")}
    index = write(tmp_path, [whole, lacking])
    view = FeatureView(EncodingConfig())
    samples = whole_games(index)
    _, targets = view.view(open_store(tmp_path, index), samples, SHAPES[0])
    names = [f.name for f in view.layout.number_targets["dynamics"]]
    expected = torch.ones(2, PLAYERS, len(names))
    expected[1, 1, names.index("hitlag")] = 0
    assert torch.equal(targets.present["dynamics"], expected)
    assert all(bool(value.all()) for term, value in targets.present.items() if term != "dynamics")


def test_a_damaged_or_missing_block_is_named(tmp_path: Path) -> None:
    index = write(tmp_path, [toy_columns(10, FRAMES)])
    path = tmp_path / "out" / index.blocks[0].name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match="damaged: sha256"):
        open_store(tmp_path, index)
    path.unlink()
    with pytest.raises(UserError, match="is gone"):
        open_store(tmp_path, index)


def test_a_block_that_is_cut_short_or_of_another_schema_is_refused(tmp_path: Path) -> None:
    index = write(tmp_path, [toy_columns(11, FRAMES)])
    path = tmp_path / "out" / index.blocks[0].name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cannot be read"):
        Block.open(path)
    hashed = index.schema_hash.encode()
    path.write_bytes(content.replace(hashed, b"0" * len(hashed)))
    with pytest.raises(UserError, match="is of format"):
        Block.open(path)


def test_an_index_of_another_schema_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [toy_columns(12, FRAMES)])
    path = tmp_path / "out" / "index.json"
    path.write_text(path.read_text().replace('"schema_hash": "', '"schema_hash": "x'))
    with pytest.raises(UserError, match="another folder"):
        read_index(Location.of(tmp_path / "out"))


@pytest.mark.slow
def test_what_a_gpu_compiles_gives_the_same_to_the_last_bit(tmp_path: Path) -> None:
    blocks = write_blocks(tmp_path)
    asked = [sys.executable, "-m", "tests.features.chains_compiled", str(blocks)]
    run = subprocess.run(asked, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=230)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) == 0
