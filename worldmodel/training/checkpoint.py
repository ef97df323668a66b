"""Checkpoints: folders `checkpoints/step-00001234/` of a run that are whole and verified, or do not exist.

    weights.safetensors     the model's state dict
    optimizer.safetensors   `<slot>/<parameter>`, see `worldmodel.training.optimizer_state`
    state.json              `CheckpointState`
    manifest.json           bytes and sha256 of the others; written last

`checkpoints/best.json` names the best one. Which are kept is decided in `worldmodel.training.checkpoint_list`, how the
files are written and verified in `worldmodel.training.checkpoint_files`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from torch import Tensor, nn

from worldmodel.schema import model_hash, schema_hash
from worldmodel.storage import Location
from worldmodel.training.checkpoint_files import (
    FORMAT,
    OPTIMIZER,
    STATE,
    WEIGHTS,
    CheckpointError,
    ForeignCheckpointError,
    read_manifest,
    read_verified,
    write_files,
)
from worldmodel.training.optimizer_state import flatten_optimizer

FOLDER, BEST = "checkpoints", "best.json"


class Best(BaseModel):
    """The best validation result so far, and the checkpoint that gave it."""

    model_config = ConfigDict(frozen=True)

    metric: str
    """Its name, such as `val_metric/position_mae`."""
    value: float
    """Its value in the metric's own unit."""
    step: int
    """Optimizer steps done when it was measured."""
    path: Annotated[str, Field(pattern=r"^checkpoints/step-\d{8,}$")]
    """The checkpoint, relative to the run folder."""


class CheckpointState(BaseModel):
    """Where a run stands, apart from its tensors."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    """Version of the checkpoint's layout."""
    step: int
    """Optimizer steps done."""
    epoch: int = 0
    """Epochs completed."""
    step_in_epoch: int = 0
    """Optimizer steps done in the epoch that is under way."""
    tags: tuple[str, ...] = ()
    """Why it was written: `epoch`, `minutes`, `best`, `stop`."""
    validation_due: bool = False
    """True if the run stopped in the validation of the last epoch. A resume validates it first."""
    best: Best | None = None
    """The best result so far; None before the first validation."""
    schema_hash: str = schema_hash()
    """How frames are stored, see `worldmodel.schema`."""
    model_hash: str = model_hash()
    """How the model sees a frame, see `worldmodel.schema`."""
    data_fingerprint: str = ""
    """Which games it was trained on."""
    config: dict[str, Any] = {}
    """The experiment, complete, as nested plain values."""
    rng: dict[str, str] = {}
    """Generator name to its state in hex; see `take_rng_state`."""
    metrics: dict[str, float | None] = {}
    """The last metrics; None where one was not finite."""
    learning_rate: float | None = None
    """Of the step that comes next, by the schedule under which this was saved; None: it does not say."""
    sums: tuple[float, ...] = ()
    """What the training metrics of the epoch under way have gathered, of all workers: `Metrics.to_vector`."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that a run needs to go on, on the CPU."""

    weights: Mapping[str, Tensor]
    """The raw model's state dict (without DDP's prefix)."""
    optimizer: Mapping[str, Tensor]
    """What `flatten_optimizer` took."""
    state: CheckpointState

    @cached_property
    def digest(self) -> str:
        """12 hex digits that name every bit of weights and optimizer, wherever the tensors lie."""
        found = hashlib.sha256()
        for part in (self.weights, self.optimizer):
            for name in sorted(part):
                value = part[name].detach().cpu().contiguous()
                found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
                found.update(value.reshape(-1).view(torch.uint8).numpy().data)
        return found.hexdigest()[:12]

    def find_non_finite(self) -> str | None:
        """Name of the first tensor that holds something which is no number; None: all are sound."""
        everything = {**self.weights, **{f"optimizer {name}": value for name, value in self.optimizer.items()}}
        return next((name for name, value in everything.items() if not torch.isfinite(value).all()), None)

    @classmethod
    def of(cls, model: nn.Module, optimizer: torch.optim.Optimizer, state: CheckpointState) -> Checkpoint:
        """A copy of a run's present state: training may go on while it is being written."""
        weights = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in model.state_dict().items()}
        return cls(weights=weights, optimizer=flatten_optimizer(model, optimizer), state=state)


class NonFiniteStateError(RuntimeError):
    """A state that must not be saved: it would take the place of the last good one."""


def name_folder(step: int) -> str:
    """A checkpoint's path below its run folder."""
    return f"{FOLDER}/step-{step:08d}"


def save_checkpoint(run: Location, checkpoint: Checkpoint) -> Location:
    """Writes a checkpoint into a run folder, reads it back, and returns its folder.

    It takes the place of one of the same step and inherits its tags. Whatever interrupts this leaves no checkpoint, or
    the older one.

    Raises:
        StorageError: the folder cannot be written, or the store returned other bytes than it was sent.
        NonFiniteStateError: a weight is no number; the older checkpoints stay.
    """
    if bad := checkpoint.find_non_finite():
        raise NonFiniteStateError(f"{bad} holds values that are no numbers at step {checkpoint.state.step}: not saved")
    target = run / name_folder(checkpoint.state.step)
    state = _inherit_tags(target, checkpoint.state).model_dump_json(indent=1)
    CheckpointState.model_validate_json(state)  # what cannot be read again must not be kept
    content = {
        WEIGHTS: write_tensors(dict(checkpoint.weights)),
        OPTIMIZER: write_tensors(dict(checkpoint.optimizer)),
        STATE: state.encode(),
    }
    write_files(target, content)
    return target


def load_checkpoint(location: Location) -> Checkpoint:
    """The checkpoint in a folder, every byte verified.

    Raises:
        CheckpointError: it does not exist or is damaged (names the file, expected and found).
        ForeignCheckpointError: it is of another format.
    """
    manifest = read_manifest(location)
    content = {name: read_verified(location / name, entry) for name, entry in manifest.files.items()}
    try:
        state = CheckpointState.model_validate_json(content[STATE])
        weights, optimizer = read_tensors(content[WEIGHTS]), read_tensors(content[OPTIMIZER])
    except (ValidationError, SafetensorError) as error:
        raise CheckpointError(f"{location}: cannot be understood: {error}; use an older checkpoint") from error
    return Checkpoint(weights=weights, optimizer=optimizer, state=state)


def read_state(location: Location) -> CheckpointState:
    """The state of a checkpoint, verified, without its tensors.

    Raises:
        CheckpointError: as `load_checkpoint`.
    """
    entry = read_manifest(location).files[STATE]
    try:
        return CheckpointState.model_validate_json(read_verified(location / STATE, entry))
    except ValidationError as error:
        raise CheckpointError(f"{location / STATE}: cannot be understood: {error}") from error


def check_fits(location: Location, checkpoint: Checkpoint, expected: CheckpointState, model: nn.Module) -> None:
    """ForeignCheckpointError, with every difference, where a checkpoint is not of this schema, data set or model."""
    state = checkpoint.state
    problems = [
        f"{name}: the checkpoint has {getattr(state, name)}, expected {getattr(expected, name)}"
        for name in ("schema_hash", "model_hash", "data_fingerprint")
        if getattr(state, name) and getattr(expected, name) and getattr(state, name) != getattr(expected, name)
    ]
    here = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    there = {name: tuple(value.shape) for name, value in checkpoint.weights.items()}
    names = [name for name in sorted(here.keys() | there.keys()) if here.get(name) != there.get(name)]
    problems += [f"{n}: the checkpoint has {there.get(n, 'none')}, the model {here.get(n, 'none')}" for n in names[:3]]
    if problems:
        more = f"\n  and {len(names) - 3} more of the model" if len(names) > 3 else ""
        text = "\n  ".join(problems)
        raise ForeignCheckpointError(f"{location} is not a checkpoint of this experiment:\n  {text}{more}")


def take_rng_state() -> dict[str, str]:
    """The states of torch's generators, by device, in hex."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return {name: state.numpy().tobytes().hex() for name, state in states.items()}


def restore_rng_state(states: Mapping[str, str]) -> None:
    """Gives torch's generators the states that `take_rng_state` took; a device that is absent here is passed over."""
    for name, text in states.items():
        state = torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
        if name == "cpu":
            torch.set_rng_state(state)
        elif torch.cuda.is_available():
            torch.cuda.set_rng_state(state)


def _inherit_tags(target: Location, state: CheckpointState) -> CheckpointState:
    older: tuple[str, ...] = ()
    with suppress(CheckpointError):
        older = read_state(target).tags
    return state.model_copy(update={"tags": tuple(dict.fromkeys((*older, *state.tags)))})
