"""Model FLOPs utilization (MFU): the share of a GPU's peak that a run's own operations are (Chowdhery et al. 2022)."""

from __future__ import annotations

import torch

from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.run.prices import read_prices
from worldmodel.run.step_work import count_operations

TERA = 1e12


def find_peak_rate(config: ExperimentConfig, device: torch.device, workers: int) -> float | None:
    """Targets per second at an MFU of 1, in bfloat16, over all workers; None: on a CPU, or on a GPU of unknown peak."""
    if device.type != "cuda":
        return None
    try:
        prices = read_prices()
    except UserError:  # said where prices matter
        return None
    kind = prices.find_kind(torch.cuda.get_device_properties(device).name) if prices else None
    peak = prices.gpus[kind].bf16_tflops if prices and kind else None
    return workers * peak.value * TERA / count_operations(config) if peak else None
