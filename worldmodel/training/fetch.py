"""Bringing a run home: its records and one checkpoint, verified, in the layout of a run folder."""

from __future__ import annotations

from pathlib import Path

from worldmodel.storage import Location
from worldmodel.training.card import CARD
from worldmodel.training.checkpoint import BEST, FOLDER, fetch_checkpoint
from worldmodel.training.checkpoint_list import find_checkpoint
from worldmodel.training.run import CONFIG, RECORD
from worldmodel.training.tracking import METRICS


def fetch_run(location: Location, target: Path, which: str = "newest") -> Path:
    """Downloads a run folder's records and one of its checkpoints; returns the checkpoint's folder.

    What is there already and sound is kept, and an interrupted download continues, so it can simply be repeated.

    Args:
        location: the run folder.
        target: a local folder, which becomes a run folder.
        which: `newest`, `best`, or a step's number.

    Raises:
        UserError: there is no such run or checkpoint, or its bytes are not those that were saved.
    """
    checkpoint = find_checkpoint(location, which)
    for name in (CONFIG, RECORD, METRICS, CARD):
        if (location / name).exists():
            (location / name).copy_to(target / name)
    fetch_checkpoint(checkpoint, target / FOLDER / checkpoint.name)
    if which == "best":
        (location / FOLDER / BEST).copy_to(target / FOLDER / BEST)
    return target / FOLDER / checkpoint.name
