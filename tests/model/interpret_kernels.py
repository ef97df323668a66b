"""Runs mamba_ssm's Triton kernels on a CPU (TRITON_INTERPRET=1) and compares them with plain torch.

A process of its own, because it replaces parts of torch and Triton. Prints a line of JSON: case to name to the largest
difference, relative to the largest value.
"""

from __future__ import annotations

import contextlib
import json
import types
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tests.model.golden import random_batch
from worldmodel.encoding import EncodingConfig
from worldmodel.experiment.config import LossWeights
from worldmodel.features.facts import CATEGORIES, CONTROL_PLACES, Facts
from worldmodel.features.feedback import Feedback
from worldmodel.model import kernels, scan
from worldmodel.model.build import build_model
from worldmodel.model.config import ModelConfig
from worldmodel.model.unroll import CarriedMemory, Unroller
from worldmodel.schema import PLAYERS
from worldmodel.training.loss import compute_loss


@dataclass(frozen=True, kw_only=True)
class Scan:
    """A scan to compare."""

    length: int
    """Frames; not all are multiples of the chunk."""
    has_state: bool = False
    """Whether a state comes before them."""
    wants_state: bool = True
    """Whether the state behind them is wanted."""
    dtype: torch.dtype = torch.float32
    """Of x, b and c. float16 stands in for bfloat16, whose bits the interpreter multiplies as if they were numbers."""


CHUNK, FRAMES = 16, 21
SCANS = {
    "one frame": Scan(length=1),
    "no state before or behind": Scan(length=19, wants_state=False),
    "state before, none behind": Scan(length=32, has_state=True, wants_state=False),
    "state before and behind": Scan(length=37, has_state=True),
    "narrow": Scan(length=37, has_state=True, dtype=torch.float16),
}


def pretend_gpu() -> None:
    """What the kernels expect of a GPU machine: a device."""
    torch.cuda.device = lambda *_: contextlib.nullcontext()  # type: ignore[assignment,misc,return-value]
    torch.cuda.get_device_properties = lambda *_: types.SimpleNamespace(multi_processor_count=1)  # type: ignore[assignment,misc,return-value]


def prepare() -> None:
    """A device, and one configuration of each kernel."""
    pretend_gpu()
    import triton.runtime.autotuner as autotuner

    initialise = autotuner.Autotuner.__init__

    def keep_one(self: autotuner.Autotuner, *args: object, **options: object) -> None:
        initialise(self, *args, **options)
        self.configs = self.configs[:1]

    autotuner.Autotuner.__init__ = keep_one


def measure(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    """Largest difference of tensors, relative to their largest value; absolute where all of them are zero."""
    pairs = list(zip(ours, theirs, strict=True))
    size = max(float(right.detach().abs().max()) for _, right in pairs)
    return max(float((left - right).detach().abs().max()) for left, right in pairs) / (size or 1.0)


def compare_scans(case: Scan) -> dict[str, float]:
    """Differences of outputs, final state and the gradients of everything that goes in."""
    inputs, start = draw_inputs(case)
    found: list[dict[str, Tensor]] = []
    for module in (kernels, scan):
        leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
        before = start.clone().requires_grad_()
        y, final = module.scan_chunks(
            scan.ScanInputs(**leaves), CHUNK, before if case.has_state else None, wants_state=case.wants_state
        )
        assert (final is not None) == case.wants_state
        ends = {"y": y} if final is None else {"y": y, "final": final}
        torch.stack([(end.float().sin() + end.float().square()).sum() for end in ends.values()]).sum().backward()
        used = {**leaves, "initial": before} if case.has_state else leaves
        found.append(
            {**ends, **{f"gradient of {name}": leaf.grad for name, leaf in used.items() if leaf.grad is not None}}
        )
    assert found[0].keys() == found[1].keys()
    return {name: measure([found[0][name]], [found[1][name]]) for name in found[1]}


def draw_inputs(case: Scan) -> tuple[dict[str, Tensor], Tensor]:
    """What drives a scan, and a state to begin from."""
    draw = torch.Generator().manual_seed(case.length)
    batch, heads, width, state = 2, 2, 16, 16

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw)

    inputs = {
        "x": normal(batch, case.length, heads, width).to(case.dtype),
        "dt": torch.rand(batch, case.length, heads, generator=draw),
        "a": -torch.rand(heads, generator=draw) * 4,
        "b": normal(batch, case.length, state).to(case.dtype),
        "c": normal(batch, case.length, state).to(case.dtype),
        "d": normal(heads),
    }
    assert inputs.keys() == set(scan.ScanInputs._fields)
    return inputs, normal(batch, heads, width, state)


def compare_models() -> dict[str, float]:
    """Differences of a whole model's predictions, of the state behind them, the loss and all parameters' gradients."""
    config = ModelConfig(d_model=32, d_state=16, n_layers=2, headdim=16, chunk_size=CHUNK, dropout=0.0)
    layout = EncodingConfig(state_age_as_embed=True).layout
    inputs, _, targets = random_batch(layout, batch=2, positions=FRAMES)
    weights = build_model(config, layout).state_dict()
    found: list[dict[str, list[Tensor]]] = []
    for backend in ("kernels", "torch"):
        model = build_model(replace(config, backend=backend), layout)
        model.load_state_dict(weights)
        with torch.no_grad():
            before = model(inputs)[1]
        predictions, after = model(inputs, before)
        loss, _ = compute_loss(predictions, targets, LossWeights())
        loss.backward()  # type: ignore[no-untyped-call]
        found.append(
            {
                "predictions": [*predictions.numbers.values(), *predictions.logits.values()],
                "state": list(after.tensors),
                "loss": [loss],
                **{f"gradient of {name}": [p.grad] for name, p in model.named_parameters() if p.grad is not None},
            }
        )
    assert found[0].keys() == found[1].keys()
    return {name: measure(found[0][name], found[1][name]) for name in found[1]}


def compare_rollouts() -> dict[str, float]:
    """Differences of what a model makes of its own frames, and of the state behind them."""
    config = ModelConfig(d_model=32, d_state=16, n_layers=2, headdim=16, chunk_size=CHUNK, kinematic_head=True)
    layout = EncodingConfig().layout
    weights = build_model(config, layout).state_dict()
    facts = Facts(
        torch.rand(2, FRAMES, PLAYERS, CONTROL_PLACES.stop).round(),
        torch.randint(0, 3, (2, FRAMES, PLAYERS, len(CATEGORIES))),
        torch.tensor([2, 8]),
    )
    found: list[dict[str, list[Tensor]]] = []
    for backend in ("kernels", "torch"):
        model = build_model(replace(config, backend=backend), layout).eval()
        model.load_state_dict(weights)
        memory = CarriedMemory(model)
        unroller = Unroller(memory, Feedback(layout))
        with torch.inference_mode():
            unroller.begin(facts)
            frames = [unroller.step(facts.controls[:, time]) for time in range(10)]
        assert memory.state is not None
        found.append({
            "numbers": [frame.numbers for frame in frames], "classes": [frame.classes.double() for frame in frames],
            "state": list(memory.state.tensors),
        })  # fmt: skip
    return {name: measure(found[0][name], found[1][name]) for name in found[1]}


if __name__ == "__main__":
    prepare()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    found = {name: compare_scans(case) for name, case in SCANS.items()}
    print(json.dumps({**found, "model": compare_models(), "rollout": compare_rollouts()}))
