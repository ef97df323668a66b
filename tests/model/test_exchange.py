"""Checkpoints in the users' format: what goes out comes back, and what does not fit is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.model.golden import MODELS, Golden
from worldmodel.encoding import EncodingConfig
from worldmodel.errors import UserError
from worldmodel.model.build import build_model
from worldmodel.model.config import ModelConfig
from worldmodel.model.exchange import (
    export_checkpoint,
    load_users_checkpoint,
    load_weights,
    read_users_encoding,
    users_encoding,
)

CONFIGS = [
    ModelConfig(d_model=32, d_state=8, n_layers=3, headdim=16, context_len=12, dropout=0.0),
    ModelConfig(arch="mlp", hidden_dim=24, trunk_dim=8, context_len=5, dropout=0.0),
]
ENCODINGS = [
    EncodingConfig(),
    EncodingConfig(state_age_as_embed=True, lookahead=1, press_events=True),
    EncodingConfig(state_flags=True, hitstun=True, projectiles=True),
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_exported_model_comes_back_whole(tmp_path: Path, config: ModelConfig, encoding: EncodingConfig) -> None:
    model = build_model(config, encoding.layout)
    export_checkpoint(model, tmp_path / "best.pt", epoch=3)
    found = load_users_checkpoint(tmp_path / "best.pt")
    assert (found.encoding, found.epoch) == (encoding, 3)
    again = build_model(found.model, found.encoding.layout)
    load_weights(again, found.weights, "best.pt")
    own = model.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in again.state_dict().items())
    assert found.model.context_len == config.context_len


@pytest.mark.parametrize(("arch", "encoding"), MODELS)
def test_a_users_checkpoint_gives_its_model(shared_folder: Path, tmp_path: Path, arch: str, encoding: str) -> None:
    golden = Golden(shared_folder / "golden", arch, encoding)
    widths = ("_dim", "_per_player", "_per_frame")
    theirs = golden.index["encodings"][encoding]
    fields = {k: v for k, v in theirs.items() if not k.endswith(widths) or k.endswith("_embed_dim")}
    content = {"model_state_dict": golden.weights(), "encoding_config": fields, "context_len": 10, "epoch": 1}
    torch.save(content, tmp_path / "theirs.pt")
    found = load_users_checkpoint(tmp_path / "theirs.pt")
    assert found.encoding == golden.layout.config
    sizes = golden.index["models"][f"{arch}_{encoding}"]
    assert all(getattr(found.model, key) == value for key, value in sizes.items() if key != "chunk_size")
    load_weights(build_model(found.model, found.encoding.layout), found.weights, "theirs.pt")


@pytest.mark.parametrize("encoding", ["baseline", "1a2a", "3a1a", "v3proj"])
def test_exported_settings_are_the_users_own(shared_folder: Path, encoding: str) -> None:
    golden = Golden(shared_folder / "golden", "mlp", encoding)
    theirs = golden.index["encodings"][encoding]
    ours = users_encoding(golden.layout.config)
    assert {key: theirs[key] for key in ours} == ours


def test_all_that_differs_is_named_at_once() -> None:
    model = build_model(CONFIGS[0], EncodingConfig().layout)
    weights = dict(model.state_dict())
    del weights["final_norm.weight"]
    weights["extra_head.weight"] = torch.zeros(2, 3)
    weights["frame_proj.bias"] = torch.zeros(7)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_weights(model, weights, "a.pt")
    for part in ("missing final_norm.weight", "unexpected extra_head.weight (2, 3)", "frame_proj.bias is (7,)"):
        assert part in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("change", [{"xy_scale": 0.1}, {"multi_position": True}, {"action_vocab": 500}])
def test_features_that_we_do_not_compute_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(change))):
        read_users_encoding({**users_encoding(EncodingConfig()), **change}, "a.pt")


def test_files_that_are_no_checkpoints_say_so(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("not a checkpoint")
    torch.save({"weights": {}}, tmp_path / "other.pt")
    torch.save({"model_state_dict": {"a": torch.zeros(1)}}, tmp_path / "alien.pt")
    torch.save({"model_state_dict": {}, "args": Path("x")}, tmp_path / "pickled.pt")
    for name in ("text.pt", "other.pt", "alien.pt", "pickled.pt", "absent.pt"):
        with pytest.raises(UserError, match=name):
            load_users_checkpoint(tmp_path / name)
