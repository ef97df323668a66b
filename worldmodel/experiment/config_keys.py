"""Keys of the users' experiment files that are no settings here: fixed by the schema, or read by nothing."""

from __future__ import annotations

from functools import cache

from worldmodel.schema import STAGE, Kind, field_named, fields

_SEQUENCE_MODE = "`training.mode: sequence` puts the loss on every position"
_NOISE = "noise on the context was tried and is not built in"
_THROUGH = "own frames are taken as given: no gradient flows through what the model sees of them"
_HEADS = "the heads of this model do not have it"
_ROLLOUT = "rollouts belong to `worldmodel evaluate`"

REFUSED = {
    "encoding.focal_offset": _SEQUENCE_MODE,
    "encoding.multi_position": _SEQUENCE_MODE,
    "encoding.ctrl_residual_to_action": _HEADS,
    "encoding.cascaded_heads": _HEADS,
    "encoding.cascade_embed_dim": _HEADS,
    "encoding.character_conditioning": _HEADS,
    "encoding.ctrl_threshold_features": "its thresholds were on at neutral for sticks stored in 0..1",
    "model.unimix_ratio": _HEADS,
    "model.layer_dropout": "`model.dropout` is the only dropout",
    "training.scheduled_sampling": _NOISE,
    "training.ss_noise_scale": _NOISE,
    "training.ss_anneal_epochs": _NOISE,
    "training.ss_corrupt_frames": _NOISE,
    "training.ss_true": _NOISE,
    "training.rollout_every_n": _ROLLOUT,
    "training.rollout_games": _ROLLOUT,
    "training.num_workers": "batches are gathered from mapped blocks, there are no loader workers",
    "training.gpu_resident": "blocks that fit the accelerator are always kept there",
    "training.resume": "`worldmodel train --resume` continues a run",
    "training.resume_from": "`worldmodel train --resume` continues a run",
    "training.optimizer": "AdamW is the only optimizer",
    "training.muon_lr": "AdamW is the only optimizer",
    "training.adamw_lr": "AdamW is the only optimizer: set `training.lr`",
    "training.profile": "timings are sampled in every run",
    "self_forcing.horizon_weights": "weights by horizon are not built: all own frames weigh the same",
    "self_forcing.selective_bptt": _THROUGH,
    "self_forcing.full_bptt": _THROUGH,
    "loss_weights.physics": "no such loss term",
}
"""Dotted key to the reason why no file may set it: a key that changed nothing would be believed."""


RENAMED = {
    ("training.compile", "default"): "compile",
    ("training.compile", "cuda_graphs"): "graph",
    ("training.compile", "max_autotune"): "compile_graph",
}
"""Dotted key and a value that it once had, to what that is called now."""


@cache
def find_fixed_keys() -> dict[str, float]:
    """Dotted keys of the users' `encoding` section whose values are the schema's, with those values.

    Scales are named after the quantity (`xy_scale`), vocabularies and embedding widths after the field's short name.
    """
    scales = {
        "xy": "x", "percent": "percent", "shield": "shield_strength", "velocity": "speed_air_x",
        "state_age": "state_age", "hitlag": "hitlag", "stocks": "stocks", "combo_count": "combo_count",
        "hitstun": "hitstun_remaining",
    }  # fmt: skip
    embedded = {f.short: f for f in (*fields(Kind.CATEGORY), STAGE)} | {"state_age_embed": field_named("state_age")}
    found: dict[str, float] = {f"{key}_scale": field_named(name).scale for key, name in scales.items()}
    for key, field in embedded.items():
        found[f"{key}_vocab"] = field.vocabulary
        found[f"{key.removesuffix('_embed')}_embed_dim"] = field.embedding
    return {f"encoding.{key}": value for key, value in found.items()}
