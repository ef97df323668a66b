"""Checkpoints: folders `checkpoints/step-00001234/` of a run that are whole and verified, or do not exist.

    weights.safetensors     the model's state dict
    optimizer.safetensors   `<slot>/<parameter>`, see `worldmodel.training.optimizer_state`
    state.json              `CheckpointState`
    manifest.json           bytes and sha256 of the others; written last

`checkpoints/best.json` names the best one. Which are kept is decided in `worldmodel.training.checkpoint_list`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save_file as write_tensors
from torch import Tensor, nn

from worldmodel.errors import UserError
from worldmodel.object_store import StorageError, explain_failure
from worldmodel.schema import model_hash, schema_hash
from worldmodel.storage import Location
from worldmodel.training.optimizer_state import flatten_optimizer

FORMAT = 1
"""Version of the layout above; a newer one is refused."""
FOLDER, WEIGHTS, OPTIMIZER, STATE, MANIFEST, BEST = (
    "checkpoints", "weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json", "best.json",
)  # fmt: skip

LEFTOVER = ".writing-"
"""What the name of a checkpoint under way begins with."""


class CheckpointError(UserError):
    """A checkpoint that is damaged, absent or from another version; the message names the file and what to do."""


class Best(BaseModel):
    """The best validation result so far, and the checkpoint that gave it."""

    model_config = ConfigDict(frozen=True)

    metric: str
    """Its name, such as `val_metric/position_mae`."""
    value: float
    """Its value in the metric's own unit."""
    step: int
    """Optimizer steps done when it was measured."""
    path: str
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

    @classmethod
    def of(cls, model: nn.Module, optimizer: torch.optim.Optimizer, state: CheckpointState) -> Checkpoint:
        """A copy of a run's present state: training may go on while it is being written."""
        weights = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in model.state_dict().items()}
        return cls(weights=weights, optimizer=flatten_optimizer(model, optimizer), state=state)


def name_folder(step: int) -> str:
    """A checkpoint's path below its run folder."""
    return f"{FOLDER}/step-{step:08d}"


def save_checkpoint(run: Location, checkpoint: Checkpoint) -> Location:
    """Writes a checkpoint into a run folder, reads it back, and returns its folder.

    It takes the place of one of the same step and inherits its tags. Whatever interrupts this leaves no checkpoint, or
    the older one.

    Raises:
        StorageError: the folder cannot be written, or the store returned other bytes than it was sent.
    """
    target = run / name_folder(checkpoint.state.step)
    checkpoint = _inherit_tags(target, checkpoint)
    beside = target.parent.local_path()
    with explain_failure(str(target), "write"):
        if beside is not None:
            beside.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=LEFTOVER, dir=beside))
        try:
            _write_files(temporary, checkpoint)
            _publish(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def load_checkpoint(location: Location) -> Checkpoint:
    """The checkpoint in a folder, every byte verified.

    Raises:
        CheckpointError: it does not exist, is damaged (names the file, expected and found), or is of a newer format.
    """
    manifest = read_manifest(location)
    content = {name: _read_verified(location / name, entry) for name, entry in manifest.items()}
    try:
        state = CheckpointState.model_validate_json(content[STATE])
        weights, optimizer = read_tensors(content[WEIGHTS]), read_tensors(content[OPTIMIZER])
    except KeyError as error:
        raise CheckpointError(f"{location}: the manifest lists no {error.args[0]}; use an older checkpoint") from None
    except (ValidationError, SafetensorError) as error:
        raise CheckpointError(f"{location}: cannot be understood: {error}; use an older checkpoint") from error
    return Checkpoint(weights=weights, optimizer=optimizer, state=state)


def read_state(location: Location) -> CheckpointState:
    """The state of a checkpoint, verified, without its tensors.

    Raises:
        CheckpointError: as `load_checkpoint`.
    """
    entry = read_manifest(location).get(STATE, {})
    try:
        return CheckpointState.model_validate_json(_read_verified(location / STATE, entry))
    except ValidationError as error:
        raise CheckpointError(f"{location / STATE}: cannot be understood: {error}") from error


def read_manifest(location: Location) -> dict[str, dict[str, Any]]:
    """File name to `bytes` and `sha256` of a checkpoint's files.

    Raises:
        CheckpointError: there is no manifest, so no checkpoint; or it is damaged or of a newer format.
    """
    try:
        manifest = json.loads((location / MANIFEST).read_bytes())
        version, files = int(manifest["format"]), dict(manifest["files"])
    except StorageError as error:
        raise CheckpointError(f"{location} is no checkpoint: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{location / MANIFEST} is damaged ({error}); use an older checkpoint") from error
    if version > FORMAT:
        raise CheckpointError(
            f"{location} has format {version}, but this version of worldmodel reads formats up to {FORMAT}; update it"
        )
    return files


def fetch_checkpoint(location: Location, target: Path) -> list[Path]:
    """Downloads a checkpoint into a local folder and verifies it; an interrupted download continues. Returns its files.

    Raises:
        CheckpointError: there is none, or its bytes are not those that were saved.
    """
    manifest = read_manifest(location)
    for name, entry in manifest.items():
        if not _has_sha256(target / name, entry["sha256"]):
            (location / name).copy_to(target / name, expected_sha256=entry["sha256"])
    (location / MANIFEST).copy_to(target / MANIFEST)
    return [target / name for name in (*manifest, MANIFEST)]


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


def _inherit_tags(target: Location, checkpoint: Checkpoint) -> Checkpoint:
    older: tuple[str, ...] = ()
    with suppress(CheckpointError):
        older = read_state(target).tags
    tags = tuple(dict.fromkeys((*older, *checkpoint.state.tags)))
    state = checkpoint.state.model_copy(update={"tags": tags})
    return Checkpoint(weights=checkpoint.weights, optimizer=checkpoint.optimizer, state=state)


def _write_files(folder: Path, checkpoint: Checkpoint) -> None:
    write_tensors(dict(checkpoint.weights), folder / WEIGHTS)
    write_tensors(dict(checkpoint.optimizer), folder / OPTIMIZER)
    (folder / STATE).write_text(checkpoint.state.model_dump_json(indent=1))
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": Location.of(folder / name).compute_sha256()}
        for name in (WEIGHTS, OPTIMIZER, STATE)
    }
    (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, "files": files}, indent=1))
    for path in (*folder.iterdir(), folder):
        _sync(path)


def _publish(temporary: Path, target: Location) -> None:
    """Makes the files of `temporary` the checkpoint at `target`."""
    local = target.local_path()
    if local is None:
        _upload(temporary, target)
        return
    if local.exists():
        local.rename(temporary.with_suffix(".old"))
    temporary.chmod(0o755)
    temporary.rename(local)
    _sync(local.parent)
    shutil.rmtree(temporary.with_suffix(".old"), ignore_errors=True)


def _upload(temporary: Path, target: Location) -> None:
    (target / MANIFEST).delete()
    for name in (WEIGHTS, OPTIMIZER, STATE, MANIFEST):
        sent = (target / name).upload(temporary / name)
        stored = (target / name).compute_sha256()
        if stored != sent:
            (target / MANIFEST).delete()
            raise StorageError(f"{target / name}: the store returned sha256 {stored} for {sent}; it is not kept")


def _read_verified(location: Location, entry: Mapping[str, Any]) -> bytes:
    try:
        content = location.read_bytes()
    except StorageError as error:
        raise CheckpointError(f"{location.parent} is damaged: {error}; use an older checkpoint") from error
    found = hashlib.sha256(content).hexdigest()
    if found != entry.get("sha256"):
        raise CheckpointError(
            f"{location} is damaged: sha256 {found} ({len(content)} bytes), expected {entry.get('sha256')} "
            f"({entry.get('bytes')} bytes); use an older checkpoint"
        )
    return content


def _has_sha256(path: Path, expected: str) -> bool:
    return path.is_file() and Location.of(path).compute_sha256() == expected


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
