"""Settings that no machine could carry out, refused before anything is spent: memory that grows with a setting.

What is counted here must be there at the least, whatever else is: weights with what AdamW keeps of them, and what one
training pass keeps of each layer for its gradients. What more it takes shows when it runs (`memory.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import psutil
import torch

from worldmodel.blocks.index import GameEntry
from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig

_WEIGHT_BYTES = 16
"""A weight, its gradient and two averages, float32."""
_KEPT_BYTES = 4
"""A number that a layer keeps, at the least: two of 16 bits."""


def check_lengths(config: ExperimentConfig, games: Sequence[GameEntry]) -> None:
    """UserError where a training sample is longer than every game: nothing would fill it."""
    longest = max((game.frames for game in games), default=0)
    length, ahead = config.training.sequence_length, config.encoding.lookahead
    if games and ahead >= longest:
        raise UserError(
            f"encoding.lookahead: found {ahead:,}, but the longest of {len(games):,} games has {longest:,} frames: "
            f"expected at most {max(0, longest - 1):,}"
        )
    if config.training.mode == "sequence" and games and length + ahead > longest:
        raise UserError(
            f"training.sequence_length: found {length:,}, but the longest of {len(games):,} games has {longest:,} "
            f"frames: expected at most {longest - ahead:,}"
        )


def check_memory(config: ExperimentConfig, samples: int, device: str, workers: int = 1) -> None:
    """UserError where the device has less memory than the experiment takes at the least.

    `samples`: of an epoch; a batch has no more. `device`: "cpu", "cuda", ...
    """
    room, needed = find_room(device), count_bytes(config, samples, workers)
    if needed > room:
        raise UserError(
            f"these settings take more memory than there is: at least {needed / 2**30:,.0f} GiB, found "
            f"{room / 2**30:,.0f} GiB: lower training.batch_size, training.sequence_length, model.d_model, "
            "model.n_layers or model.d_state, or raise training.batch_parts"
        )


def count_bytes(config: ExperimentConfig, samples: int, workers: int = 1) -> int:
    """Bytes that training takes at the least."""
    model, training = config.model, config.training
    if model.arch == "mlp":
        weights = model.hidden_dim * (100 * model.context_len + model.trunk_dim)
        kept = model.hidden_dim + 100 * model.context_len
    else:
        weights = 2 * model.n_layers * model.d_model * (3 * model.d_model + model.d_state)
        frames = training.sequence_length if training.mode == "sequence" else model.context_len
        kept = frames * model.n_layers * 4 * model.d_model
    batch = max(1, min(training.batch_size, samples) // (training.batch_parts * workers))
    return _WEIGHT_BYTES * weights + _KEPT_BYTES * batch * kept


def find_room(device: str) -> int:
    """Bytes of memory of the device, all of it."""
    if device == "cuda" and torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    return int(psutil.virtual_memory().total)
