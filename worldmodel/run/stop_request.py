"""How a run or a grid is asked to save itself and end: by a signal, or by a stop file in its folder."""

from __future__ import annotations

import codecs
import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

from worldmodel.object_store import MissingError
from worldmodel.storage import Location

STOP = "STOP"
"""Name of the file."""


def read_stop(folder: Location) -> str | None:
    """The reason that a folder's stop file gives, whatever wrote it (PowerShell's `>` writes UTF-16); None: no file.

    Raises:
        StorageError: the folder cannot be read.
    """
    try:
        content = (folder / STOP).read_bytes()
    except MissingError:
        return None
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if is_wide else "utf-8-sig", errors="replace").strip() or "asked by a stop file"


def hear_signals(tell: Callable[[int], None]) -> Callable[[], None]:
    """Makes SIGTERM, Ctrl-C and SIGHUP requests to stop, a second one an exit; returns what undoes that.

    A terminal that closes may send several SIGHUPs, and none of them is in haste; what ignores them, as under `nohup`,
    goes on doing so.

    `tell` must take no lock: the signal may interrupt a holder of it. Outside the main thread nothing is heard.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGHUP:
            heard.append(number)
            if len(heard) > 1:
                raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        tell(number)
        with contextlib.suppress(OSError):  # nobody reads it any more
            os.write(2, b"stopping: a checkpoint is saved first; once more ends the run at once\n")

    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    mine = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in mine:
        signal.signal(number, hear)

    def restore() -> None:
        for number in mine:
            signal.signal(number, before[number])

    return restore


def describe_signal(number: int) -> str:
    """Why a run stops that a signal asked to."""
    known = {signal.SIGINT: "interrupted (Ctrl-C)", signal.SIGHUP: "SIGHUP: its terminal was closed"}
    return known.get(signal.Signals(number), "SIGTERM: the process was asked to end")
