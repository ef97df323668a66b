"""The checkpoints of a run: which there are, the newest sound one, the best one, and which are kept."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass

from pydantic import ValidationError

from worldmodel.object_store import MissingError, StorageError
from worldmodel.storage import Location
from worldmodel.training.checkpoint import BEST, FOLDER, Best, Checkpoint, load_checkpoint, name_folder, read_state
from worldmodel.training.checkpoint_files import (
    LEFTOVER,
    MANIFEST,
    CheckpointError,
    ForeignCheckpointError,
    read_manifest,
)

_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Which checkpoints stay; the others are deleted."""

    keep_last: int = 2
    """Number of newest checkpoints that stay (two, so that a damaged one does not end the run)."""
    keep_epochs: bool = True
    """Whether every epoch's checkpoint stays."""
    keep_best: bool = True
    """Whether the best one stays."""


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """What a run can go on from."""

    checkpoint: Checkpoint | None
    """The newest sound checkpoint; None: the run has none."""
    location: Location | None
    """Where it is."""
    complaints: tuple[str, ...]
    """What was wrong with each newer one that had to be passed over."""


def list_checkpoints(run: Location) -> list[Location]:
    """The run's complete checkpoints, oldest first; their bytes are not verified."""
    found = sorted((int(m[1]), e.name) for e in (run / FOLDER).list_entries() if (m := _NAME.fullmatch(e.name)))
    return [run / FOLDER / name for _, name in found if (run / FOLDER / name / MANIFEST).exists()]


def newest_good(run: Location) -> Recovery:
    """The newest checkpoint whose every byte is as it was saved; report the complaints.

    Raises:
        ForeignCheckpointError: a newer one is of another format, so that an older one would lose what was learnt.
        StorageError: a store did not answer, which says nothing of what it holds.
    """
    complaints: list[str] = []
    for location in reversed(list_checkpoints(run)):
        try:
            return Recovery(checkpoint=load_checkpoint(location), location=location, complaints=tuple(complaints))
        except ForeignCheckpointError:
            raise
        except CheckpointError as error:
            complaints.append(str(error))
    return Recovery(checkpoint=None, location=None, complaints=tuple(complaints))


def find_sound(run: Location) -> Location | None:
    """The newest checkpoint whose bytes are as they were saved, without its tensors in memory; None: there is none."""
    for location in reversed(list_checkpoints(run)):
        with suppress(StorageError, CheckpointError):
            files = read_manifest(location).files
            if all((location / name).compute_sha256() == entry.sha256 for name, entry in files.items()):
                return location
    return None


def mark_best(run: Location, best: Best) -> None:
    """Points `checkpoints/best.json` at a checkpoint of the run, after verifying that it is sound.

    Raises:
        CheckpointError: it is not; the pointer stays as it was.
    """
    load_checkpoint(run / best.path)
    (run / FOLDER / BEST).write_text(best.model_dump_json(indent=1) + "\n")


def read_best(run: Location) -> Best | None:
    """What `checkpoints/best.json` says; None where no checkpoint has been named the best.

    Raises:
        CheckpointError: it cannot be understood.
    """
    try:
        return Best.model_validate_json((run / FOLDER / BEST).read_bytes())
    except MissingError:
        return None
    except ValidationError as error:
        raise CheckpointError(f"{run / FOLDER / BEST} is damaged: {error}") from error


def find_checkpoint(run: Location, which: str = "newest") -> Location:
    """The checkpoint that a user means: `newest`, `best`, or a step's number.

    Raises:
        CheckpointError: the run has no such checkpoint; the message lists those that it has.
    """
    there = list_checkpoints(run)
    if which == "best":
        best = read_best(run)
        chosen = [run / best.path] if best else []
    elif which == "newest":
        chosen = there[-1:]
    else:
        chosen = [location for location in there if which.isdecimal() and location == run / name_folder(int(which))]
    if not chosen:
        known = ", ".join(location.name.removeprefix("step-").lstrip("0") or "0" for location in there) or "none"
        raise CheckpointError(f"{run} has no checkpoint {which!r}; expected 'newest', 'best' or a step of: {known}")
    return chosen[0]


def apply_retention(run: Location, policy: Retention, step: int | None = None) -> list[Location]:
    """Deletes the checkpoints that the policy does not keep, and what an interrupted save left; returns the deleted.

    `step`: the newest that this process has saved; later ones, which it passed over as damaged, count for nothing.
    """
    there = list_checkpoints(run)
    best = read_best(run) if policy.keep_best else None
    sound = [c for c in there if step is None or c.uri <= (run / name_folder(step)).uri]
    kept = {*(sound[-policy.keep_last :] if policy.keep_last else []), *there[len(sound) :]}
    doomed = [c for c in there if c not in kept and not (best and c == run / best.path)]
    doomed = [c for c in doomed if not (policy.keep_epochs and _has_tag(c, "epoch"))]
    for location in doomed:
        # Without its manifest a half deleted checkpoint does not exist.
        (location / MANIFEST).delete()
        location.delete()
    for entry in (run / FOLDER).list_entries():
        if entry.name.startswith(LEFTOVER):
            (run / FOLDER / entry.name).delete()
    return doomed


def _has_tag(location: Location, tag: str) -> bool:
    with suppress(CheckpointError):
        return tag in read_state(location).tags
    return False
