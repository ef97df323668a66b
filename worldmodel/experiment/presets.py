"""Named sets of overrides: `--preset laptop`, `--preset a100`. A preset names every key that it sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from worldmodel.errors import UserError, nearest
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import override


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One named set of overrides."""

    purpose: str
    """What it is for, in a sentence."""
    find_changes: Callable[[ExperimentConfig], dict[str, Any]]
    """Dotted keys and values that it sets on an experiment."""


def apply_preset(name: str, config: ExperimentConfig) -> tuple[ExperimentConfig, dict[str, Any]]:
    """The experiment under a preset, and the dotted keys that the preset set (also those that were so before).

    Raises:
        UserError: no preset of that name, or the outcome is no valid experiment.
    """
    if name not in PRESETS:
        raise UserError(f"--preset {name}: unknown preset{nearest(name, PRESETS)}; there are {', '.join(PRESETS)}")
    changes = PRESETS[name].find_changes(config)
    return override(config, changes, source=f"--preset {name} on {config.name}"), changes


def _find_laptop(config: ExperimentConfig) -> dict[str, Any]:
    return {
        "model.arch": "mamba2",
        "model.d_model": 192,
        "model.n_layers": 4,
        "model.d_state": 64,
        "model.headdim": 64,
        "model.dropout": 0.0,
        "training.mode": "sequence",
        "training.sequence_length": 64,
        "training.batch_size": 16,
        "training.batch_parts": 2,
        "training.num_epochs": 1,
        "training.swap_players": True,
        "training.lr": 8e-3,
        "training.warmup_pct": 0.04,
        "training.schedule": "cosine",
        "training.amp": True,
        "loss_weights.action": 4.0,
    }


def _find_round1(config: ExperimentConfig) -> dict[str, Any]:
    encoding = config.encoding
    is_everything = encoding.state_age_as_embed and encoding.press_events and encoding.lookahead > 0
    return {
        "data.split": "first",
        "model.context_len": 10,
        "model.kinematic_head": False,
        "model.output_scale": 1.0,
        "model.copy_prior": 0.0,
        "model.rule_prior": False,
        "training.smooth_l1_beta": None,
        "training.swap_players": False,
        "training.mode": "window",
        "training.batch_size": 512,
        "training.lr": {"mlp": 1e-3, "mamba2": 5e-4}[config.model.arch],
        "training.weight_decay": 1e-5,
        "training.clip": 1.0,
        "training.num_epochs": 1 if is_everything else 2,
        "training.schedule": "epoch_cosine",
        "training.amp": False,
        "training.train_split": 0.9,
        "training.best_metric": "val_loss/total",
        "training.best_mode": "min",
        "loss_weights.action": 2.0,
    }


def _find_gpu(config: ExperimentConfig, batch_size: int) -> dict[str, Any]:
    """The experiment's own model in batches that keep a GPU busy. No measured learning rate is better at 16, 64 or 512
    sequences, see README."""
    if config.model.arch == "mlp":
        return {"training.mode": "window", "training.batch_size": 512, "training.lr": 1e-3, "training.amp": True}
    return {
        "training.mode": "sequence",
        "training.sequence_length": 64,
        "training.batch_size": batch_size,
        "training.batch_parts": 1,
        "training.lr": 1.6e-2,
        "training.warmup_pct": 0.04,
        "training.schedule": "cosine",
        "training.amp": True,
    }


def _make_gpu(name: str, batch_size: int) -> Preset:
    purpose = f"one {name}: the experiment's own model, {batch_size} sequences of 64 a step"
    return Preset(purpose=purpose, find_changes=partial(_find_gpu, batch_size=batch_size))


PRESETS = {
    "laptop": Preset(purpose="two CPU cores and minutes: 1.3 million parameters", find_changes=_find_laptop),
    "round1": Preset(purpose="the setting of the published Round 1 numbers", find_changes=_find_round1),
    "a100": _make_gpu("A100", 256),
    "h100": _make_gpu("H100", 512),
    "l4": _make_gpu("L4", 64),
}
"""Name to preset. A GPU's batch is the smallest measured one at which gaps between kernels take under a tenth of a step
by `worldmodel plan`: small batches learn more from as many targets. Round 1's 3a-1a-2a was published after one epoch,
all others after two."""
