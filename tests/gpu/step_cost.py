"""What a training step would do on an A100, counted without one: launches, waits, memory traffic and a roofline.

    .venv-kernels/bin/python -m tests.gpu.step_cost [--json] [--chains] [--only NAME ...] [--backends torch kernels]
    .venv-kernels/bin/python -m tests.gpu.step_cost --operator

A step of the project's own Trainer runs on fake cuda tensors (`fake_cuda`): host code runs, a mix of devices raises,
and no kernel runs. An aten operator that is no view is one launch; its traffic is what it is given and what it makes.
Triton kernels are recorded at their launch (`fake_triton`), and `@fused` chains as inductor lowers them for an A100
(`chains`). `fused` counts the kernels of chains: inductor's compiled code launches them without Triton's launcher, at
about the price of an aten operator. Their matrix products count as aten launches, and their traffic is what each kernel
and product reads and writes. `KB_per_target_of_graphs` instead counts what goes in and out of a chain's graphs: what
would remain if each graph were one kernel. Nothing is reused from the L2 cache.

The estimate is the larger of launches (6.5 us from aten or a chain, 30 us from Triton) and traffic (80 % of 1.55 TB/s,
as on an A100 of 40 GB); the share of peak is of 312 TFLOP/s. These are assumptions, not measurements.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
import warnings
from collections import Counter
from typing import Any

from tests.gpu import fake_cuda  # noqa: F401  (before torch)

warnings.simplefilter("ignore")

import torch  # noqa: E402

from tests.gpu import chains, fake_convolution, fake_triton, project  # noqa: E402
from tests.gpu.recorder import FAKE, Recorder  # noqa: E402
from worldmodel.training.workers import Workers  # noqa: E402

ATEN_US, TRITON_US = 6.5, 30.0
BYTES_PER_US, FLOPS_PER_US = 0.8 * 1.55e6, 312e6
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "4.28M 16x64": ("", {"training.batch_size": 16, "training.sequence_length": 64}),
    "4.28M 64x64": ("", {"training.batch_size": 64, "training.sequence_length": 64}),
    "4.28M 512x64": ("", {"training.batch_size": 512, "training.sequence_length": 64}),
    "4.28M 8x256": ("", {"training.batch_size": 8, "training.sequence_length": 256}),
    "4.28M windows 512": ("", {"training.batch_size": 512, "training.mode": "window"}),
    "laptop 16x64": ("laptop", {}),
}
"""Name of a setting to its scale and its changes of the baseline."""


def measure(name: str, backend: str, blocks: str) -> dict[str, Any]:
    """One row of the table."""
    return {"setting": name, "backend": backend, **summarise(*run_steps(name, backend, blocks))}


def run_steps(name: str, backend: str, blocks: str) -> tuple[Recorder, int]:
    """What is recorded of a setting's step, and how many targets it has."""
    scale, changes = SETTINGS[name]
    config = project.make_config({"training.swap_players": True, **changes, "model.backend": backend}, scale)
    recorder = Recorder()
    with (
        project.on_backend(backend), project.without_values(), chains.counting(recorder), FAKE, recorder,
    ):  # fmt: skip
        trainer = project.open_trainer(config, blocks, Workers(device=torch.device("cuda:0")))
        first, others = project.choose_steps(trainer)
        for step in (*first, others[0]):
            recorder.reset()
            with project.phases(recorder):
                project.run_step(trainer, step)
    return recorder, project.count_targets(trainer)


def summarise(recorder: Recorder, targets: int) -> dict[str, Any]:
    """What a step was counted to do, and how fast an A100 would do it."""
    aten = {phase: sum(ops.values()) for phase, ops in recorder.ops.items()}
    graphs = [cost for costs in recorder.chains.values() for cost in costs]
    fused = sum(cost.kernels for cost in graphs)
    triton = len(fake_triton.launches)
    traffic = sum(recorder.bytes.values()) + sum(launch.bytes for launch in fake_triton.launches)
    launch_us = (sum(aten.values()) + fused) * ATEN_US + triton * TRITON_US
    step_us = max(launch_us, traffic / BYTES_PER_US)
    rate, flops = targets / step_us * 1e6, sum(recorder.flops.values())
    return {
        "targets": targets, "aten": aten, "aten_total": sum(aten.values()), "triton": triton, "fused": fused,
        "compiled_graphs": len(graphs), "waits": dict(recorder.waits), "waits_total": sum(recorder.waits.values()),
        "KB_per_target": round(traffic / targets / 1e3, 1),
        "KB_per_target_of_graphs": round((traffic + sum(c.ends - c.bytes for c in graphs)) / targets / 1e3, 1),
        "launch_us": round(launch_us), "step_us": round(step_us),
        "bound": "launches" if launch_us >= traffic / BYTES_PER_US else "memory", "targets_per_s": round(rate),
        "chains": {name: _describe(costs, targets) for name, costs in recorder.chains.items()},
        "share_of_peak": round(rate * flops / targets / (FLOPS_PER_US * 1e6), 4),
    }  # fmt: skip


def _describe(costs: list[chains.Cost], targets: int) -> dict[str, Any]:
    """All runs of one graph in a step."""
    return {
        "runs": len(costs),
        "kernels": sum(cost.kernels for cost in costs),
        "products": sum(len(cost.products) for cost in costs),
        "KB_per_target": round(sum(cost.bytes for cost in costs) / targets / 1e3, 1),
        "KB_per_target_of_graphs": round(sum(cost.ends for cost in costs) / targets / 1e3, 1),
    }


def show(row: dict[str, Any], with_chains: bool) -> None:
    """One row as a line."""
    phases = ", ".join(f"{phase} {count}" for phase, count in row["aten"].items())
    print(
        f"{row['setting']:18} {row['backend']:8} aten {row['aten_total']:5} ({phases}) + {row['fused']:3} fused "
        f"+ {row['triton']:3} T | waits {row['waits_total']} | {row['KB_per_target']:7} KB | {row['step_us']:6} us "
        f"({row['bound']}) | {row['targets_per_s']:,} targets/s | {row['share_of_peak']:.1%}",
        flush=True,
    )
    for name, chain in row["chains"].items() if with_chains else ():
        print(f"    {name:60} {', '.join(f'{key} {value}' for key, value in chain.items())}")


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", nargs="*", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--backends", nargs="*", choices=["torch", "kernels"], default=["torch", "kernels"])
    parser.add_argument("--chains", action="store_true", help="show what each compiled chain costs")
    parser.add_argument("--operator", action="store_true", help="compare a layer with mamba_ssm's fused operator")
    options = parser.parse_args()
    fake_triton.install()
    fake_convolution.install()
    blocks, rows, status = project.make_blocks(), [], 0
    if options.operator:
        from tests.gpu.operator_cost import measure_operators

        rows, options.only = measure_operators(), []
        for row in rows if not options.json else ():
            show(row, options.chains)
    for name, backend in ((name, backend) for name in options.only for backend in options.backends):
        try:
            rows.append(measure(name, backend, blocks))
        except Exception:  # noqa: BLE001  (one setting that fails does not hide the others)
            status = 1
            traceback.print_exc()
            print(f"{name} {backend}: does not run on fake cuda tensors", file=sys.stderr)
            continue
        if not options.json:
            show(rows[-1], options.chains)
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        for wait, count in Counter(wait for row in rows for wait in row["waits"]).most_common():
            print(f"wait in {count} settings: {wait}")
    return status


if __name__ == "__main__":
    sys.exit(main())
