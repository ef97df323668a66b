"""AdamW's state as named tensors: what a checkpoint holds instead of a pickle."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from worldmodel.errors import UserError


def flatten_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state, copied to the CPU: `<slot>/<parameter>` (`exp_avg/head.weight`, shaped as the parameter).

    A parameter that has never had a gradient has no state and is absent. Learning rate and the other settings of a
    parameter group are not state: they follow from the experiment and the step.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{slot}/{names[parameter]}": value.detach().to("cpu", copy=True).contiguous()
        for parameter, slots in optimizer.state.items()
        for slot, value in slots.items()
    }


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Gives a fresh optimizer of `model` the state that `flatten_optimizer` took; its settings stay as they are.

    Raises:
        UserError: the state belongs to another model: a parameter is unknown or has another shape.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    ordered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    shapes = {names[parameter]: parameter.shape for parameter in ordered}
    slots: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        slot, _, name = key.partition("/")
        if name not in shapes:
            raise UserError(f"the checkpoint's optimizer knows a parameter {name!r} that this model lacks")
        if slot != "step" and value.shape != shapes[name]:
            found, expected = tuple(value.shape), tuple(shapes[name])
            raise UserError(f"the checkpoint's optimizer has shape {found} for {name!r}, expected {expected}")
        slots.setdefault(name, {})[slot] = value.clone()
    # load_state_dict knows where each variant of AdamW (fused, capturable) wants its tensors.
    inner = {index: slots[names[parameter]] for index, parameter in enumerate(ordered) if names[parameter] in slots}
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict({"state": inner, "param_groups": optimizer.state_dict()["param_groups"]})
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate  # the tensor itself, and not the copy that was made of it
