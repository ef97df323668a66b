"""One layer of the model beside the same layer on mamba_ssm's fused operator, forward and backward, by counts.

`mamba_split_conv1d_scan_combined` takes what `in_proj` gives and returns what `out_proj` does. It needs causal_conv1d,
which ours is given too.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.gpu import chains, project
from tests.gpu.recorder import FAKE, Recorder
from tests.gpu.step_cost import summarise
from worldmodel.machine.fused import fused
from worldmodel.model import kernels
from worldmodel.model.config import ModelConfig
from worldmodel.model.mamba2 import Mamba2Layer
from worldmodel.model.norm import EPSILON

TARGETS = 32_768
LENGTHS = (64, 256)


def run_ours(layer: Mamba2Layer, x: Tensor) -> Tensor:
    """The layer as it is."""
    return layer(x, None, keep=x.size(1), wants_state=False)[0]


@fused
def _enter(layer: Mamba2Layer, x: Tensor) -> Tensor:
    return F.linear(layer.norm(x), layer.mamba.in_proj.weight)


def run_theirs(layer: Mamba2Layer, x: Tensor) -> Tensor:
    """The layer with all between `in_proj` and the residual sum in one operator."""
    block = layer.mamba
    mixed: Tensor = kernels.import_scan().mamba_split_conv1d_scan_combined(
        _enter(layer, x), block.conv1d.weight.squeeze(1), block.conv1d.bias, block.dt_bias,
        -block.A_log.exp(), block.D, min(128, x.size(1)), activation="silu", rmsnorm_weight=block.norm.weight,
        rmsnorm_eps=EPSILON, outproj_weight=block.out_proj.weight, headdim=block.head_width, norm_before_gate=False,
    )  # fmt: skip
    return x + mixed


def measure_operators() -> list[dict[str, Any]]:
    """A row for each way and length."""
    return [
        {"setting": f"a layer, T = {length}", "backend": name, **_measure(run, length)}
        for length in LENGTHS
        for name, run in (("ours", run_ours), ("mamba_ssm", run_theirs))
    ]


def _measure(run: Any, length: int) -> dict[str, Any]:
    recorder = Recorder()
    with project.on_backend("kernels", has_convolution=True), chains.counting(recorder), FAKE, recorder:
        with torch.device("cuda:0"):
            layer = Mamba2Layer(ModelConfig())
            x = torch.randn(TARGETS // length, length, ModelConfig().d_model, requires_grad=True)
        for _ in range(2):
            recorder.reset()
            with recorder.during("forward"), torch.autocast("cuda", torch.bfloat16):
                y = run(layer, x)
            with recorder.during("backward"):
                y.backward(torch.ones_like(y))
    return summarise(recorder, TARGETS)
