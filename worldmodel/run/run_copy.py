"""Bringing a run home: a copy of its folder with one checkpoint, which is a run folder itself."""

from __future__ import annotations

from pathlib import Path

from worldmodel.errors import UserError
from worldmodel.object_store import MissingError
from worldmodel.progress import Tell, say_nothing
from worldmodel.run.card import CARD
from worldmodel.run.card_page import CARD_PAGE
from worldmodel.run.run import CONFIG, EVALUATION, RECORD
from worldmodel.run.run_folder import read_record
from worldmodel.run.tracking import METRICS
from worldmodel.storage import Location
from worldmodel.training.checkpoint import BEST, FOLDER
from worldmodel.training.checkpoint_files import MANIFEST, fetch_checkpoint, read_expected
from worldmodel.training.checkpoint_list import read_best

FACTS = (CONFIG, METRICS, CARD, CARD_PAGE, EVALUATION)
"""What comes along beside the record and the checkpoint, where the run has it."""


def fetch_run(
    run: Location, checkpoint: Location, target: Path, sha256: str | None = None, tell: Tell = say_nothing
) -> list[Path]:
    """Copy a run's facts and one of its checkpoints into a local folder, verified; returns the files.

    `sha256`: the checkpoint's, where known from elsewhere; it does not cover the facts. Calling it again continues
    what was interrupted, and brings facts up to date. The record comes first: it tells whose copy an unfinished folder
    is. `best.json` comes only with the checkpoint that it names.

    Raises:
        UserError: the folder holds something else than a copy of this run, or bytes are not those that were saved.
    """
    _check_target(run, target)
    read_expected(checkpoint, sha256)
    files = [_copy(run / RECORD, target / RECORD)]
    files += [_copy(run / name, target / name) for name in FACTS if (run / name).exists()]
    files += fetch_checkpoint(checkpoint, target / FOLDER / checkpoint.name, sha256, tell)
    best, pointer = read_best(run), target / FOLDER / BEST
    if best and run / best.path == checkpoint:
        files.append(_copy(run / FOLDER / BEST, pointer))
    elif pointer.exists() and best and not (target / best.path / MANIFEST).exists():
        pointer.unlink()  # it named an earlier best, which is no longer that
    return files


def _copy(source: Location, target: Path) -> Path:
    """The file as it is at one moment: a live run's are written again and again."""
    Location.of(target).write_bytes(source.read_bytes())
    return target


def _check_target(run: Location, target: Path) -> None:
    if run.local_path() == target.absolute():
        raise UserError(f"{target} is the run itself: name another folder")
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is a file: name a folder")
    try:
        there, record = read_record(Location.of(target)), read_record(run)
    except MissingError:
        strange = [p.name for p in target.iterdir() if not p.name.endswith(".part")] if target.exists() else []
        if strange:
            raise UserError(f"{target} holds other things ({strange[0]}): name a new folder") from None
        return
    if (there.name, there.started) != (record.name, record.started):
        raise UserError(
            f"{target} holds another run ({there.name!r}, started {there.started:%Y-%m-%d %H:%M:%S}): name a new folder"
        )
