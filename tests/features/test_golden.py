"""Features equal those of the users' own encoder, through the ordinary path: encoded blocks, store, view."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.games_on_disk import encode_here
from worldmodel.blocks.index import GameEntry, Index
from worldmodel.encoding import EncodingConfig
from worldmodel.features.plan import Samples, SampleShape
from worldmodel.features.store import FrameStore, StoreOptions
from worldmodel.features.view import FeatureView

ENCODINGS = ["baseline", "1a", "2a", "3a", "1a2a", "3a1a", "3a1a2a", "v3", "v3proj"]
NUMBERS = ("continuous", "velocity", "binary", "dynamics")
CLASSES = ("action", "jumps", "l_cancel", "hurtbox", "ground", "last_attack")


class Golden:
    """The users' outputs, and blocks of the games that they were made from."""

    def __init__(self, shared: Path, folder: Path) -> None:
        self.folder, self.blocks = shared / "golden", folder / "blocks"
        about = json.loads((self.folder / "index.json").read_text())
        self.encodings, self.names = about["encodings"], about["games"]
        source = shared / "data" / "games"
        (folder / "games" / "games").mkdir(parents=True)
        for name in self.names:
            shutil.copy(source / "games" / name, folder / "games" / "games" / name)
        meta = [e for e in json.loads((source / "meta.json").read_text()) if e["slp_md5"] in self.names]
        (folder / "games" / "meta.json").write_text(json.dumps(meta))
        self.index: Index = encode_here(folder / "games", self.blocks).index
        by_name = {game.md5: game for game in self.index.games}
        self.games: list[GameEntry] = [by_name[name] for name in self.names]

    def config(self, encoding: str) -> EncodingConfig:
        flags = self.encodings[encoding]
        return EncodingConfig(**{name: flags[name] for name in EncodingConfig.__dataclass_fields__ if name in flags})

    def store(self, config: EncodingConfig, is_resident: bool) -> FrameStore:
        options = StoreOptions(with_items=config.projectiles, resident_bytes=1 << 40 if is_resident else 0)
        return FrameStore(self.blocks, self.index, self.games, options)


@pytest.fixture(scope="module")
def golden(shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    return Golden(shared_folder, tmp_path_factory.mktemp("golden"))


def assert_close(found: torch.Tensor, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert np.abs(found.double().numpy() - expected).max() <= 1e-6


@pytest.mark.parametrize("is_resident", [True, False], ids=["resident", "mapped"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_frames_equal_the_users(golden: Golden, encoding: str, is_resident: bool) -> None:
    config = golden.config(encoding)
    store, view = golden.store(config, is_resident), FeatureView(config)
    for place, name in enumerate(golden.names):
        file = golden.folder / f"encode_{encoding}_{name[:8]}.npz"
        if not file.exists():
            continue
        expected = np.load(file)
        assert golden.games[place].frames == int(expected["num_frames"])
        decoded = view.decode(store, Samples(np.array([place]), np.array([0])), len(expected["floats"]))
        assert_close(decoded.numbers[0], expected["floats"])
        assert_close(decoded.classes[0], expected["ints"])


@pytest.mark.parametrize("is_resident", [True, False], ids=["resident", "mapped"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_samples_equal_the_users(golden: Golden, encoding: str, is_resident: bool) -> None:
    config = golden.config(encoding)
    expected = np.load(golden.folder / f"samples_{encoding}.npz")
    shape = SampleShape(mode="window", context=10, length=1, lookahead=config.lookahead)
    samples = Samples(expected["game"].astype(np.int64), expected["frame"].astype(np.int64) - shape.context)
    inputs, targets = FeatureView(config).view(golden.store(config, is_resident), samples, shape)
    assert_close(inputs.floats, expected["float_ctx"])
    assert_close(inputs.classes, expected["int_ctx"])
    assert_close(inputs.controls[:, 0], expected["next_ctrl"])
    assert_close(torch.cat([targets.numbers[t][:, 0].flatten(1) for t in NUMBERS], -1), expected["float_tgt"])
    assert_close(torch.stack([targets.classes[t][:, 0] for t in CLASSES], -1).flatten(1), expected["int_tgt"])
    assert bool(targets.valid.all())
