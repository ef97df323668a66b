"""A training step of the 4.28M model per CPU-second of one thread, in bfloat16, against a plain one, and its memory.

Ours are whole steps of a real run: feeding, features, loss, metrics, clipping and AdamW. The yardstick's inputs lie
ready, which favours it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.options import Options
from tests.benchmarks.peers.process import Peer
from tests.benchmarks.race import Contestant, Pairing, compare, race
from tests.benchmarks.reference import ReferenceStep
from tests.benchmarks.row import Goal, Row
from worldmodel.experiment.config_file import override
from worldmodel.experiment.layers import load_experiment
from worldmodel.model.build import build_model
from worldmodel.training.data import open_dataset
from worldmodel.training.job import build_trainer
from worldmodel.training.loop import Hooks, Trainer
from worldmodel.training.workers import Workers

ROOT = Path(__file__).parents[2]
EXPERIMENT = ROOT / "tune" / "experiments" / "baseline.yaml"
TURN_SECONDS = 3.0
"""CPU-seconds of a turn, about."""
REFERENCE, MIXER = "reference", "transformers mixer"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A way to cut batches, and what is aimed at."""

    name: str
    changes: dict[str, object]
    goal: float
    """Times the yardstick's targets per CPU-second, at least."""


CASES = (
    Case(name="windows 512, K=10", goal=4, changes={"training.mode": "window", "training.batch_size": 512}),
    Case(name="sequences 8 x 256", goal=30, changes={"training.sequence_length": 256, "training.batch_size": 8}),
    Case(name="sequences 16 x 64", goal=30, changes={"training.batch_size": 16}),
)


def measure(options: Options) -> list[Row]:
    """Rows per case: against the yardstick, and the part of the machine's peak; transformers' mixer; memory."""
    torch.set_num_threads(1)
    reference = ReferenceStep()
    trainers = {case.name: make_trainer(options.blocks, case) for case in CASES}
    contestants = [Contestant(name=REFERENCE, run=_repeat(reference.run))]
    contestants += [Contestant(name=name, run=_go_on(trainer)) for name, trainer in trainers.items()]
    contestants += [Contestant(name="matrix product", run=_multiply())]
    peer = _open_mixer(options)
    try:
        rounds = race([*contestants, *([peer.contestant] if peer else [])], options.rounds)
    finally:
        if peer:
            peer.close()
    rows = [compare(rounds, _pair(case)) for case in CASES]
    if peer:
        pairing = Pairing(area="step: windows 512, K=10", unit="targets", measured=CASES[0].name, against=MIXER)
        rows.append(compare(rounds, pairing))
    peak = max(turn.rate for turn in rounds["matrix product"])
    rows += [_compare_peak(case, max(t.rate for t in rounds[case.name]), trainers[case.name], peak) for case in CASES]
    return [*rows, *(_compare_memory(case, options.blocks) for case in CASES)]


def make_trainer(blocks: Path, case: Case) -> Trainer:
    """A run of the baseline experiment on one thread, without an end; its validation never comes."""
    config = override(load_experiment(EXPERIMENT), {**case.changes, **_UNENDING})
    return build_trainer(open_dataset(str(blocks), config), config, Workers(device=torch.device("cpu")))


_UNENDING = {"training.num_epochs": 10_000, "training.log_interval": 10_000, "training.threads": 1}


def _pair(case: Case) -> Pairing:
    goal = Goal(of="ratio", least=case.goal)
    return Pairing(area=f"step: {case.name}", unit="targets", measured=case.name, against=REFERENCE, goal=goal)


def _repeat(step: Callable[[], int]) -> Callable[[], float]:
    def run() -> float:
        began, work = time.process_time(), 0
        while time.process_time() - began < TURN_SECONDS:
            work += step()
        return work

    return run


def _go_on(trainer: Trainer) -> Callable[[], float]:
    def run() -> float:
        began, first = time.process_time(), trainer.step
        trainer.run(Hooks(stop_reason=lambda: "turn over" if time.process_time() - began > TURN_SECONDS else None))
        return (trainer.step - first) * trainer.config.training.batch_size * trainer.feed.shape.positions

    return run


def _multiply() -> Callable[[], float]:
    """The machine's peak: floating-point operations of square bfloat16 matrix products, one thread."""
    a, b = torch.randn(2048, 2048, dtype=torch.bfloat16), torch.randn(2048, 2048, dtype=torch.bfloat16)

    def run() -> float:
        began, count = time.process_time(), 0
        while time.process_time() - began < TURN_SECONDS / 3:
            torch.mm(a, b)
            count += 1
        return 2.0 * 2048**3 * count

    return run


def _open_mixer(options: Options) -> Peer | None:
    if options.peers is None:
        return None
    folder = options.scratch / "mixer"
    folder.mkdir()
    return Peer(MIXER, options.peers, folder, TURN_SECONDS)


def _compare_peak(case: Case, rate: float, trainer: Trainer, peak: float) -> Row:
    operations = count_operations(trainer)
    speed = rate * operations
    return Row(
        area=f"step: {case.name}, part of the peak", unit="GFLOP/s", measured="worldmodel", value=speed / 1e9,
        against="matrix products", value_against=peak / 1e9, ratio=speed / peak,
        note=f"{operations / 1e6:.1f} MFLOP of matrix products per target, best turns" if case is CASES[0] else "",
    )  # fmt: skip


def count_operations(trainer: Trainer) -> float:
    """Floating-point operations of a step's matrix products per target, forward and backward."""
    model = build_model(trainer.config.model, trainer.config.encoding.layout)
    (batch, *_) = trainer.feed.batches(0)
    with FlopCounterMode(display=False) as counter:
        predictions, _ = model(batch.inputs, wants_state=False)
        parts = (*predictions.numbers.values(), *predictions.logits.values())
        torch.stack([part.float().mean() for part in parts]).sum().backward()  # type: ignore[no-untyped-call]
    counted: float = counter.get_total_flops()
    return counted / (len(batch.inputs.controls) * trainer.feed.shape.positions)


_MEMORY = """
import json, sys
from pathlib import Path
import psutil, torch
from tests.benchmarks.reference import ReferenceStep
from tests.benchmarks.step import CASES, make_trainer
from worldmodel.training.loop import Hooks
torch.set_num_threads(1)
blocks, name = Path(sys.argv[1]), sys.argv[2]
if name == "reference":
    step = ReferenceStep()
    run = lambda: [step.run() for _ in range(4)]
else:
    trainer = make_trainer(blocks, next(case for case in CASES if case.name == name))
    asked = iter(range(10**6))
    run = lambda: trainer.run(Hooks(stop_reason=lambda: "enough" if next(asked) >= 4 else None))
before = psutil.Process().memory_info().rss
Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
run()
(peak,) = (int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
print(json.dumps((1024 * peak - before) / 2**20))
"""


def _compare_memory(case: Case, blocks: Path) -> Row:
    """Growth of resident memory at the peak of four steps, optimizer included, in a process of its own each."""
    ours, theirs = (_measure_memory(blocks, name) for name in (case.name, REFERENCE))
    return Row(
        area=f"step: {case.name}, peak memory", unit="MiB", measured="worldmodel", value=ours, against=REFERENCE,
        value_against=theirs, ratio=ours / theirs, goal=Goal(of="ratio", most=1),
    )  # fmt: skip


def _measure_memory(blocks: Path, name: str) -> float:
    script = [sys.executable, "-c", _MEMORY, str(blocks), name]
    return float(json.loads(subprocess.run(script, capture_output=True, text=True, check=True, cwd=ROOT).stdout))
