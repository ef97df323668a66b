"""Compares our Mamba-2 block with transformers' Mamba2Mixer (plain torch, float32) under the same weights.

A process of its own, because transformers lives in another environment. Prints a line of JSON: case to name to the
largest difference, relative to the largest value.
"""

from __future__ import annotations

import json

import torch
from torch import Tensor, nn
from transformers import Mamba2Config
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from worldmodel.model.config import EXPANSION, ModelConfig
from worldmodel.model.mamba2 import KERNEL, Mamba2
from worldmodel.model.norm import EPSILON

CASES = {"one chunk": (10, 32), "several chunks": (64, 16), "a part of a chunk left over": (75, 32)}
"""Frames, and frames of a chunk."""


def build_mixer(config: ModelConfig) -> nn.Module:
    """Transformers' mixer of the same sizes."""
    sizes = Mamba2Config(
        hidden_size=config.d_model, state_size=config.d_state, num_heads=config.heads, head_dim=config.headdim,
        expand=EXPANSION, conv_kernel=KERNEL, n_groups=1, chunk_size=config.chunk_size, num_hidden_layers=1,
        layer_norm_epsilon=EPSILON, use_bias=False, use_conv_bias=True, time_step_limit=(0.0, float("inf")),
    )  # fmt: skip
    return Mamba2Mixer(sizes, layer_idx=0)


def compare(length: int, chunk: int) -> dict[str, float]:
    """Differences of the output and of the gradients of the input and of every parameter."""
    config = ModelConfig(d_model=96, d_state=16, headdim=32, chunk_size=chunk)
    ours, theirs = Mamba2(config), build_mixer(config)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.load_state_dict(ours.state_dict())
    u, pull = torch.randn(3, length, config.d_model), torch.randn(3, length, config.d_model)
    found: list[dict[str, Tensor]] = []
    for block in (ours, theirs):
        leaf = u.clone().requires_grad_()
        y = block(leaf, None, keep=length, wants_state=False)[0] if block is ours else block(leaf)
        (y * pull).sum().backward()
        gradients = {name: parameter.grad for name, parameter in block.named_parameters()}
        found.append({"y": y.detach(), "u": leaf.grad, **gradients})
    assert found[0].keys() == found[1].keys()
    return {name: float((found[0][name] - value).abs().max() / value.abs().max()) for name, value in found[1].items()}


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(json.dumps({name: compare(*case) for name, case in CASES.items()}))
