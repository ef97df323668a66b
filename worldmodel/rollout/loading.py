"""From a run folder to its model and its validation games: the one way for everything that looks at a trained model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.features.shelf import find_cache
from worldmodel.machine.device import pick_device
from worldmodel.model.build import build_model
from worldmodel.model.world_model import WorldModel
from worldmodel.run.run_folder import read_config, read_record
from worldmodel.storage import Location
from worldmodel.training.checkpoint import load_checkpoint
from worldmodel.training.data import Dataset, note_unrecorded, open_dataset, prepare_blocks


@dataclass(frozen=True, kw_only=True)
class LoadedRun:
    """A checkpoint of a run, ready to predict."""

    location: Location
    """The run's folder."""
    checkpoint: str
    """Name of the checkpoint's folder."""
    step: int
    """Optimizer steps behind it."""
    config: ExperimentConfig
    model: WorldModel
    """In evaluation mode, on `device`."""
    device: torch.device
    untrained: tuple[str, ...] = ()
    """Fields that no game recorded which it was trained on: their heads say nothing."""


def load_model(run: Location, checkpoint: Location, device: str = "") -> LoadedRun:
    """The model of a checkpoint, on the run's own device or on what there is; `device`: `cpu`, `cuda`, ... instead.

    Raises:
        CheckpointError: the checkpoint is damaged.
        UserError: the run folder holds no experiment that this version understands.
    """
    config = read_config(run)
    chosen = _pick_device(device or config.training.device)
    saved = load_checkpoint(checkpoint)
    torch.manual_seed(config.training.seed)
    sizes = config.model if chosen.type == "cuda" else replace(config.model, backend="auto")
    model = build_model(sizes, config.encoding.layout).to(chosen)
    model.load_state_dict(dict(saved.weights))
    return LoadedRun(
        location=run, checkpoint=checkpoint.name, step=saved.state.step, config=config, model=model.eval(),
        device=chosen, untrained=tuple(read_record(run).unrecorded),
    )  # fmt: skip


def open_games(run: Location, config: ExperimentConfig, data: str = "") -> tuple[Dataset, tuple[str, ...]]:
    """A run's data set, and what people should know of it. `data`: games or blocks; empty: those of the run.

    Games are encoded into the user's own cache: a run from elsewhere has no say in where they go.

    Raises:
        UserError: the run's data are gone, and `data` names no other.
    """
    record = read_record(run)
    blocks = prepare_blocks(data, str(find_cache()), print) if data else record.blocks
    if not blocks:
        raise UserError(f"run {record.name!r} does not say where its data are: name them with --data")
    try:
        dataset = open_dataset(blocks, config)
    except UserError as error:
        raise UserError(f"{error}; name the games or blocks with --data where they lie elsewhere now") from error
    notes = note_unrecorded(dataset.split.validation, record.unrecorded)
    if not record.data_fingerprint or dataset.fingerprint == record.data_fingerprint:
        return dataset, notes
    other = f"other games than the run's: {dataset.fingerprint}, the run has {record.data_fingerprint}"
    return dataset, (other, *notes)


def _pick_device(wish: str) -> torch.device:
    """The run's own device, or what there is: a run of a GPU can be looked at anywhere."""
    return pick_device("auto" if wish == "cuda" else wish)
