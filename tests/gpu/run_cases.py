"""Runs cases on fake GPUs, in a process of its own, and prints what was found as one line of JSON.

python -m tests.gpu.run_cases torch|kernels [NAME ...]
"""

from __future__ import annotations

import gc
import json
import sys
import traceback
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from tests.gpu import fake_cuda  # noqa: F401  (before torch)

warnings.simplefilter("ignore")


from tests.gpu import chains, fake_convolution, fake_triton, fake_workers, project  # noqa: E402
from tests.gpu.cases import KERNELS, TORCH, Case  # noqa: E402
from tests.gpu.compile_kernels import compile_kernels  # noqa: E402
from tests.gpu.recorder import FAKE, Recorder  # noqa: E402
from tests.gpu.step_cost import summarise  # noqa: E402


def run(case: Case, blocks: str) -> dict[str, Any]:
    """What a case's steps were counted to do, or the error that ended them."""
    recorder = Recorder()
    with project.on_backend(case.backend, case.has_convolution), project.without_values():
        try:
            with chains.counting(recorder, lowers=case.is_measured), fake_workers.place(case.rank) as workers:
                return _run_on(case, blocks, recorder, workers)
        except Exception as error:  # noqa: BLE001  (it is what the tests look at)
            return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:500], "at": _find_places(error)}


def _run_on(case: Case, blocks: str, recorder: Recorder, workers: Any) -> dict[str, Any]:
    layers = {} if case.is_measured else {"model.n_layers": 2}
    config = project.make_config({**layers, **case.changes, "model.backend": case.backend}, name=case.experiment)
    found: dict[str, Any] = {"error": None, "waits": [], "differences": [], "obstacles": []}
    with FAKE, recorder:
        trainer = project.open_trainer(config, blocks, workers)
        first, others = project.choose_steps(trainer)
        sequences = []
        for step in (*first, *others):
            recorder.reset()
            with project.phases(recorder):
                project.run_step(trainer, step)
            if step in others:
                found["waits"] += [wait for wait in recorder.waits if wait not in found["waits"]]
                sequences.append(recorder.sequence)
        found["differences"] = _compare(*sequences)
        found["cost"] = summarise(recorder, project.count_targets(trainer))
        if case.is_compiled:
            found["kernels"] = compile_kernels(recorder)
        if case.is_captured:
            found["obstacles"] = project.capture_steps(config, blocks, workers)
        if case.has_validation:
            project.run_validation(trainer, blocks, config)
    if case.rank is not None:
        with FAKE, recorder:
            project.run_ahead(trainer, partial(fake_workers.in_thread, recorder), steps=3)
    return found


def _find_places(error: BaseException) -> list[str]:
    """Where in the project an error came from."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{Path(f.filename).name}:{f.lineno} {f.line}" for f in frames if "/worldmodel/" in f.filename]


def _compare(expected: list[str], found: list[str]) -> list[str]:
    for place, (one, other) in enumerate(zip(expected, found, strict=False)):
        if one != other:
            return [f"operation {place}: {other} instead of {one}"]
    return [] if len(expected) == len(found) else [f"{len(found)} operations instead of {len(expected)}"]


def main() -> None:
    """Run the cases named, or all."""
    gc.set_threshold(200_000)  # fake tensors are many and small
    cases, names = {"torch": TORCH, "kernels": KERNELS}[sys.argv[1]], sys.argv[2:]
    fake_triton.install()
    fake_convolution.install()
    blocks = project.make_blocks()
    found = {case.name: run(case, blocks) for case in cases if not names or case.name in names}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
