"""How a run ended whose own process could not say it: written by whoever finds it, and for people on the card."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any

from worldmodel.errors import UserError
from worldmodel.machine.device_state import find_memory_kill
from worldmodel.object_store import MissingError, StorageError
from worldmodel.run.last_words import find_words, forget_words
from worldmodel.run.log_file import LOG
from worldmodel.run.record import RunRecord, State
from worldmodel.run.run import LAST_LINES, RECORD
from worldmodel.run.run_folder import LIVE, judge_end, read_written
from worldmodel.storage import Location
from worldmodel.training.checkpoint_list import find_sound


def certify(location: Location) -> RunRecord:
    """The record of a run; where its process is gone without a word, that is written into its folder first.

    What is written says what is known: cause, machine, last lines, newest sound checkpoint. A folder that cannot be
    written keeps its record, and a process that lives after all writes its own over it.

    Raises:
        MissingError: there is no `run.json`.
        UserError: it cannot be understood.
    """
    written = read_written(location)
    kept = find_words(location, written)
    found = kept or judge_end(location, written)
    if written.state not in LIVE or found.state in LIVE:
        return found
    found = found.model_copy(update=describe_loss(location, found))
    with suppress(StorageError):
        if read_written(location).heartbeat == written.heartbeat:  # nobody else was faster
            (location / RECORD).write_text(found.model_dump_json(indent=1) + "\n")
            _write_card(location)
            forget_words(location)
    return found


def describe_loss(location: Location, record: RunRecord) -> dict[str, Any]:
    """What a survivor adds to the record of a process that is gone, as fields of `RunRecord`."""
    sound = None
    with suppress(StorageError):
        sound = find_sound(location)
    hint = find_memory_kill(record.device_state) if record.hosts[0] == socket.gethostname() else ""
    return {
        "reason": f"{record.reason} ({hint})" if hint else record.reason,
        "last_lines": record.last_lines or read_last_lines(location),
        "checkpoint": f"{sound.parent.name}/{sound.name}" if sound else None,
        "ended_on": record.hosts[0],
        "ended_by": f"process {os.getpid()} on {socket.gethostname()}, which found it",
        "rank": 0 if record.state is State.LOST and record.world_size == 1 else record.rank,
    }


def read_last_lines(location: Location) -> list[str]:
    """The end of a run's log."""
    try:
        return (location / LOG).read_text().splitlines()[-LAST_LINES:]
    except (MissingError, StorageError, UnicodeDecodeError):
        return []


def _write_card(location: Location) -> None:
    from worldmodel.run.card import write_card

    with suppress(UserError):  # a folder without an experiment has no card
        write_card(location)
