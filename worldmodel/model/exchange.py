"""Checkpoints that the users' code loads, and theirs read here: a `.pt` with a dictionary of plain values and tensors.

Theirs holds `model_state_dict`, `encoding_config` (every key of their `EncodingConfig`), `context_len`, `epoch`; sizes
follow from the shapes of the weights, as they do in the users' loader.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldmodel.encoding import EncodingConfig
from worldmodel.errors import UserError
from worldmodel.model.config import EXPANSION, ModelConfig
from worldmodel.model.world_model import WorldModel
from worldmodel.schema import STAGE, Kind, field_named
from worldmodel.schema import fields as fields_of

USERS_SCALES = {
    "xy": "x", "percent": "percent", "shield": "shield_strength", "velocity": "speed_y", "state_age": "state_age",
    "hitlag": "hitlag", "stocks": "stocks", "combo_count": "combo_count", "hitstun": "hitstun_remaining",
}  # fmt: skip
"""The users' `<key>_scale` to one of the fields that it scales."""
LATER_KEYS = ("state_flags", "hitstun", "hitstun_scale")
"""Keys that older versions of the users' `EncodingConfig` refuse; written only where they are needed."""

OURS = "targets"
"""The key of `EncodingConfig` that their `EncodingConfig` does not know."""


@dataclass(frozen=True, kw_only=True)
class UsersCheckpoint:
    """What a checkpoint in the users' format says."""

    model: ModelConfig
    """Sizes, read off the weights. Dropout is not stored there: it is 0 until somebody trains on."""
    encoding: EncodingConfig
    """What the model was shown."""
    weights: dict[str, Tensor]
    """State dict, on the CPU."""
    epoch: int
    """The last epoch trained, counted from 0; -1 where the file does not say."""


def export_checkpoint(model: WorldModel, path: Path, *, epoch: int) -> None:
    """Writes `model` as a checkpoint that the users' code loads.

    Raises `UserError` where their classes would compute something else from the same weights.
    """
    if not model.config.is_published:
        raise UserError(
            "the users' model classes know no kinematic_head, output_scale, copy_prior or rule_prior: only a model "
            "trained without them (kinematic_head: false, output_scale: 1, copy_prior: 0, rule_prior: false) means the "
            "same there; --format torch or safetensors takes this one to other programs"
        )
    if model.layout.config.targets != "all":
        raise UserError(
            "the users' model classes have heads for speeds, dynamics and combat, which a model of encoding.targets "
            "'published' lacks: --format torch or safetensors takes this one to other programs"
        )
    content = {
        "epoch": epoch,
        "model_state_dict": {name: value.detach().cpu().clone() for name, value in model.state_dict().items()},
        "encoding_config": users_encoding(model.layout.config),
        "model_config": asdict(model.config),
        "context_len": model.config.context_len,
    }
    torch.save(content, path)


def load_users_checkpoint(path: Path) -> UsersCheckpoint:
    """Reads a checkpoint in the users' format; nothing in it is executed.

    Raises `UserError` where it is no such file, or where its features are none that this project can compute.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} cannot be read as a checkpoint of plain tensors: {error}") from error
    if not isinstance(content, dict) or "model_state_dict" not in content:
        raise UserError(f"{path} is no checkpoint in the users' format: it has no 'model_state_dict'.")
    weights = content["model_state_dict"]
    try:
        model = _read_sizes(weights, int(content.get("context_len", 10)))
    except (KeyError, IndexError) as error:
        raise UserError(f"{path} holds neither the users' Mamba-2 nor their MLP: {error} is missing.") from error
    encoding = read_users_encoding(content.get("encoding_config") or {}, str(path))
    return UsersCheckpoint(model=model, encoding=encoding, weights=weights, epoch=int(content.get("epoch", -1)))


def load_weights(model: WorldModel, weights: Mapping[str, Tensor], source: str) -> None:
    """Copies `weights` into `model`.

    Raises `UserError`, naming everything that is missing, unexpected or of another shape, before anything is copied.
    """
    own = model.state_dict()
    wrong = [f"missing {name} {tuple(own[name].shape)}" for name in own.keys() - weights.keys()]
    wrong += [f"unexpected {name} {tuple(weights[name].shape)}" for name in weights.keys() - own.keys()]
    wrong += [
        f"{name} is {tuple(weights[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own.keys() & weights.keys()
        if own[name].shape != weights[name].shape
    ]
    if wrong:
        raise UserError(
            f"The weights of {source} do not fit this model; build it with that checkpoint's own model and encoding "
            f"settings. What differs: {'; '.join(sorted(wrong))}."
        )
    model.load_state_dict(dict(weights))


def users_encoding(config: EncodingConfig) -> dict[str, Any]:
    """The users' `encoding_config` for `config`: scales and vocabularies from the schema, and the flags."""
    complete = {key: value for key, value in _complete_encoding(config).items() if key != OURS}
    needed = {key for key in LATER_KEYS if config.state_flags or config.hitstun}
    return {key: value for key, value in complete.items() if key not in LATER_KEYS or key in needed}


def read_users_encoding(theirs: Mapping[str, Any], source: str) -> EncodingConfig:
    """Our configuration for the users' `encoding_config`; a key that it lacks has their default.

    Raises `UserError` where a scale or vocabulary is not the schema's, or a flag that this project lacks is on.
    """
    flags = [f.name for f in fields(EncodingConfig) if f.name != OURS]
    config = EncodingConfig(**{flag: theirs[flag] for flag in flags if flag in theirs})
    ours = _complete_encoding(config)
    wrong = [
        f"{key} is {value!r}" + (f", here {ours[key]!r}" if key in ours else ", unknown here")
        for key, value in theirs.items()
        if (value != ours[key] if key in ours else bool(value))
    ]
    if wrong:
        raise UserError(f"{source} was trained on features that this project does not compute: {'; '.join(wrong)}.")
    return config


def _complete_encoding(config: EncodingConfig) -> dict[str, Any]:
    found: dict[str, Any] = {f"{key}_scale": field_named(name).scale for key, name in USERS_SCALES.items()}
    for field in (*fields_of(Kind.CATEGORY), STAGE):
        found |= {f"{field.short}_vocab": field.vocabulary, f"{field.short}_embed_dim": field.embedding}
    age = field_named("state_age")
    return found | {"state_age_embed_vocab": age.vocabulary, "state_age_embed_dim": age.embedding} | asdict(config)


def _read_sizes(weights: Mapping[str, Tensor], context_len: int) -> ModelConfig:
    if "frame_proj.weight" not in weights:
        return ModelConfig(
            arch="mlp",
            context_len=context_len,
            hidden_dim=weights["trunk.0.weight"].size(0),
            trunk_dim=weights["trunk.3.weight"].size(0),
            dropout=0.0,
        )
    width = weights["frame_proj.weight"].size(0)
    inner = EXPANSION * width
    return ModelConfig(
        arch="mamba2",
        context_len=context_len,
        d_model=width,
        d_state=(weights["layers.0.mamba.conv1d.weight"].size(0) - inner) // 2,
        n_layers=len({name.split(".")[1] for name in weights if name.startswith("layers.")}),
        headdim=inner // weights["layers.0.mamba.A_log"].size(0),
        dropout=0.0,
    )
