"""Scales: `--scale laptop`, `--scale a100`. A scale sets what the machine decides; the experiment file wins over it."""

from __future__ import annotations

from typing import Any

from worldmodel.errors import UserError, nearest

NO_SCALE = ""
"""No scale: built-in defaults alone, which are upstream's heads."""
ALIASES = {"round1": "published"}
"""Former names of scales."""
RECOMMENDED: dict[str, Any] = {
    "model.kinematic_head": True,
    "model.output_scale": 0.05,
    "model.copy_prior": 6.0,
    "model.rule_prior": True,
    "training.smooth_l1_beta": 0.005,
    "training.swap_players": True,
    "loss_weights.action": 4.0,
}
"""The heads and the loss that learn most in minutes; the built-in defaults are the published ones."""
_LAPTOP: dict[str, Any] = {
    "model.d_model": 192,
    "model.dropout": 0.0,
    "training.batch_size": 16,
    "training.batch_parts": 2,
    "training.num_epochs": 1,
    "training.lr": 8e-3,
}
_PUBLISHED: dict[str, Any] = {
    "data.split": "first",
    "training.mode": "window",
    "training.batch_size": 512,
    "training.lr": 5e-4,
    "training.schedule": "epoch_cosine",
    "training.amp": False,
    "training.best_metric": "val_loss/total",
}
_MLP: dict[str, dict[str, Any]] = {
    "published": {"training.lr": 1e-3},
    **{name: {"training.batch_size": 512, "training.lr": 1e-3} for name in ("a100", "h100", "l4")},
}


def _make_gpu(batch_size: int) -> dict[str, Any]:
    """The full model in batches that keep a GPU busy. No measured learning rate is better at 16, 64 or 512 sequences,
    see README."""
    return {**RECOMMENDED, "training.batch_size": batch_size, "training.lr": 1.6e-2}


SCALES: dict[str, dict[str, Any]] = {
    "full": RECOMMENDED,
    "laptop": {**RECOMMENDED, **_LAPTOP},
    "a100": _make_gpu(256),
    "h100": _make_gpu(512),
    "l4": {**RECOMMENDED, "training.lr": 1.6e-2},  # in batches of 64, the default
    "published": _PUBLISHED,
}
"""Scale to the dotted keys that it sets over the built-in defaults. full: 4.3 million parameters; laptop: two CPU cores
and minutes, 1.3 million; published: the setting of the published Round 1 numbers. A GPU's batch is the smallest that
was measured at which gaps between kernels take under a tenth of a step by `worldmodel plan`: small batches learn more
from as many targets."""


def find_scale(name: str, option: str = "--scale") -> str:
    """The scale that a name or former name means. UserError for an unknown one."""
    found = ALIASES.get(name, name)
    if found != NO_SCALE and found not in SCALES:
        raise UserError(f"{option} {name}: unknown scale{nearest(name, SCALES)}; expected one of {', '.join(SCALES)}")
    return found


def scale_values(scale: str, arch: str) -> dict[str, Any]:
    """The dotted keys that a scale sets on an experiment of this architecture."""
    more = _MLP.get(scale, {}) if arch == "mlp" else {}
    return {**SCALES.get(scale, {}), **more}
