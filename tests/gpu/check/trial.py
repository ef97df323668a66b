"""One training in a process of its own: `python -m tests.gpu.check.trial JSON`. Its last line is its result."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from tests.gpu.check.report import Report
from tests.gpu.check.toys import configure, set_up
from worldmodel.experiment.config_file import to_yaml
from worldmodel.storage import Location
from worldmodel.training.checkpoint import Checkpoint, save_checkpoint
from worldmodel.training.interval import Interval
from worldmodel.training.job import Job, make_trainer
from worldmodel.training.loop import Hooks
from worldmodel.training.workers import Workers

EVERY_STEP = 1e-6
"""Minutes between two checkpoints: one after each step."""


def main(blocks: str, folder: str, steps: int, share: float = 1.0, is_exact: bool = False, **asked: Any) -> None:
    """Train to step `steps`, or kill this process before step `kill_at`; `resume` goes on from `folder`."""
    report = Report(folder=Path(folder), name="trial", seconds=600)
    if not report.has_gpu:
        torch.set_num_threads(1)
    config = configure(
        report, training__max_steps=steps, training__log_interval=1, training__checkpoint_minutes=EVERY_STEP,
        training__deterministic=is_exact, model__dropout=0.1, model__backend=asked.get("backend", "auto"),
    )  # fmt: skip
    set_up(config, report.device, share)
    job = Job(
        config=to_yaml(config), run=folder, blocks=blocks, workers=1, resume=asked.get("resume", False), init="",
        share=share,
    )  # fmt: skip
    trainer, _ = make_trainer(job, config, Workers(device=report.device))
    intervals: list[Interval] = []

    def save(checkpoint: Checkpoint) -> None:
        if is_exact:
            save_checkpoint(Location.of(folder), checkpoint)

    def stop() -> None:
        if trainer.step == asked.get("kill_at"):
            os.kill(os.getpid(), signal.SIGKILL)

    trainer.run(
        Hooks(
            on_interval=lambda interval, values: intervals.append(interval),
            on_checkpoint=save,
            on_epoch=lambda values, checkpoint: save(checkpoint),
            stop_reason=stop,
        )
    )
    print(json.dumps(describe(trainer.checkpoint(), intervals)))


def describe(last: Checkpoint, intervals: list[Interval]) -> dict[str, Any]:
    """Losses, pace, memory, and a hash of weights and optimizer."""
    digest = hashlib.sha256()
    for name, value in sorted([*last.weights.items(), *last.optimizer.items()]):
        digest.update(name.encode() + value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return {
        "losses": {interval.step: interval.loss for interval in intervals},
        "targets_per_second": statistics.median(interval.targets_per_second for interval in intervals),
        "peak_bytes": torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0,
        "digest": digest.hexdigest()[:16],
        "step": last.state.step,
    }


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
