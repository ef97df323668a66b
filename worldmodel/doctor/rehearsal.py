"""Two batches of everything that a run does: train, validate, save, restore, evaluate, on tiny toy games.

Blocks and run folder lie below the storage that runs will use, in a folder that is removed afterwards.
"""

from __future__ import annotations

import io
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from worldmodel.blocks.encode import EncodeOptions, encode
from worldmodel.doctor.check import Check, failed, passed
from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import override, to_yaml
from worldmodel.games.toy import write_toy_games
from worldmodel.machine.device import pick_device
from worldmodel.object_store import StorageError
from worldmodel.rollout.evaluation import evaluate
from worldmodel.run.record import RunRecord
from worldmodel.run.run_folder import read_config
from worldmodel.run.train import TrainRequest, train
from worldmodel.storage import Location
from worldmodel.training.checkpoint import Checkpoint, load_checkpoint
from worldmodel.training.checkpoint_list import find_checkpoint
from worldmodel.training.job import Job, make_trainer
from worldmodel.training.workers import Workers

FOLDER = ".rehearsal"
"""How the folder begins that holds a rehearsal; names that begin with a point are no runs."""
GAMES, FRAMES, STEPS = 2, 320, 2
SETTINGS: dict[str, Any] = {
    "name": "rehearsal", "model.d_model": 32, "model.d_state": 16, "model.headdim": 16, "model.n_layers": 1,
    "model.chunk_size": 16, "model.dropout": 0.0, "training.sequence_length": 32, "training.batch_size": 8,
    "training.max_steps": STEPS, "training.train_split": 0.5, "training.log_interval": 1, "training.rollout_starts": 4,
    "data.split": "first", "tracking.wandb": "disabled",
}  # fmt: skip
Found = TypeVar("Found")


class RehearsalError(Exception):
    """A part that did not do what it must."""


@dataclass
class Stopped(Exception):
    """A part of the rehearsal failed; the later ones need it."""

    check: Check


def rehearse(storage: str) -> Iterator[Check]:
    """Each part as a line; after one that fails the others are left out."""
    place = Location.of(storage) / f"{FOLDER}-{secrets.token_hex(4)}"
    existed = Location.of(storage).exists()
    try:
        yield from _perform(place)
    except Stopped as stopped:
        yield stopped.check
    finally:
        with suppress(StorageError):
            place.delete()
            local = Location.of(storage).local_path()
            if not existed and local is not None and not any(local.iterdir()):
                local.rmdir()


def _perform(place: Location) -> Iterator[Check]:
    config = override(ExperimentConfig(), {**SETTINGS, "save_dir": str(place)})
    blocks = str(place / "blocks")
    yield _try_part("encode", lambda: _encode_toys(blocks))[1]
    config = override(config, {"data.dataset_dir": blocks})
    record, check = _try_part("train, validate, save", lambda: _train(config))
    yield check
    run = place / record.name
    yield _try_part("restore", lambda: _restore(run, blocks))[1]
    yield _try_part("evaluate", lambda: _evaluate(run))[1]


def _try_part(name: str, work: Callable[[], tuple[Found, str]]) -> tuple[Found, Check]:
    """What a part makes, and its line. Stopped where it fails."""
    began, title = time.monotonic(), f"rehearsal: {name}"
    try:
        made, found = work()
    except Exception as error:  # a rehearsal is to meet whatever a run would
        text = " ".join(str(error).split())[:400]
        what = text if isinstance(error, UserError | RehearsalError) else f"{type(error).__name__}: {text}"
        raise Stopped(failed(title, what, "a run would end the same way: mend this first")) from error
    return made, passed(title, f"{found}, {time.monotonic() - began:.1f} s")


def _encode_toys(blocks: str) -> tuple[None, str]:
    with tempfile.TemporaryDirectory(prefix="worldmodel-rehearsal-") as folder:
        write_toy_games(Path(folder), GAMES, seed=0, longest=FRAMES)
        summary = encode(folder, blocks, EncodeOptions(cpus=0))
    return None, f"{len(summary.index.games)} toy games, {summary.index.frames:,} frames"


def _train(config: ExperimentConfig) -> tuple[RunRecord, str]:
    with redirect_stdout(io.StringIO()):
        record = train(TrainRequest(config=config), report=lambda line: None)
    missing = [name for name in ("batch/loss", "val_loss/total") if record.metrics.get(name) is None]
    if record.step != STEPS or missing or not record.checkpoint:
        raise RehearsalError(
            f"{record.step} of {STEPS} steps, {'no ' + ', '.join(missing) if missing else 'metrics are there'}, "
            f"checkpoint {record.checkpoint or 'none'}: {record.reason or 'no reason given'}"
        )
    device = record.device.get("gpu") or record.device.get("name") or record.device.get("type")
    return record, f"{STEPS} batches on {device}"


def _restore(run: Location, blocks: str) -> tuple[None, str]:
    """A trainer made from the run folder stands where the run ended, to the last bit."""
    config = read_config(run)
    saved = load_checkpoint(find_checkpoint(run, "newest"))
    job = Job(config=to_yaml(config), run=str(run), blocks=blocks, workers=1, resume=True, init="")
    trainer, _ = make_trainer(job, config, Workers(device=pick_device(config.training.device)))
    again = Checkpoint.of(trainer.model, trainer.optimizer, saved.state)
    differing = [
        name
        for was, now in ((saved.weights, again.weights), (saved.optimizer, again.optimizer))
        for name in was
        if not torch.equal(was[name], now[name])
    ]
    if trainer.step != STEPS or differing:
        raise RehearsalError(f"restored at step {trainer.step}, expected {STEPS}; other numbers in {differing[:3]}")
    return None, f"step {STEPS}, weights and optimizer bit for bit"


def _evaluate(run: Location) -> tuple[None, str]:
    found = evaluate(run, find_checkpoint(run, "newest"))
    if not found.targets:
        raise RehearsalError("nothing was evaluated")
    return None, f"{found.targets:,} targets, {len(found.rows)} rows"
