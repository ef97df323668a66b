"""What a part writes while it runs: each row at once, so that a part which hangs or dies leaves the rows before."""

from __future__ import annotations

import gc
import json
import math
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from worldmodel.machine.device import pick_device

Row = dict[str, Any]
SCRATCH = "scratch"
"""Folder of what parts make and nobody keeps."""


class Failed(Exception):
    """A case that ran and found the wrong thing. `found`: its measurements."""

    def __init__(self, text: str, found: Row) -> None:
        super().__init__(text)
        self.found = found


class Skipped(Exception):
    """A case, or a whole part, that cannot run here."""


@dataclass(kw_only=True)
class Report:
    """The rows of one part, and where and how long it may run."""

    folder: Path
    """Rows, logs and scratch of all parts."""
    name: str
    seconds: float
    began: float = field(default_factory=time.monotonic)

    @cached_property
    def device(self) -> torch.device:
        """The first GPU, or the CPU."""
        found = pick_device("auto")
        return torch.device("cuda", found.index or 0) if found.type == "cuda" else found

    @property
    def has_gpu(self) -> bool:
        """False: the part runs its small form."""
        return self.device.type == "cuda"

    @property
    def scratch(self) -> Path:
        """A folder of this part's own."""
        found = self.folder / SCRATCH / self.name
        found.mkdir(parents=True, exist_ok=True)
        return found

    @property
    def seconds_left(self) -> float:
        """Until the part is killed."""
        return self.seconds - (time.monotonic() - self.began)

    def row(self, **values: Any) -> None:
        """Write and print one row."""
        with (self.folder / f"{self.name}.rows").open("a") as stream:
            stream.write(json.dumps({name: to_plain(value) for name, value in values.items()}) + "\n")
        shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in values.items()}
        print("  " + ", ".join(f"{name} {value}" for name, value in shown.items()), flush=True)

    def go(self, cases: Iterable[Row], work: Callable[..., Row], reserve: float = 2.0) -> None:
        """Write a row for each case: its labels and what `work(**labels)` finds, or its error.

        `reserve`: seconds that a case may take. Cases that may not end within the part's time are left out.
        """
        seconds = 0.0
        for labels in cases:
            if self.seconds_left < max(reserve, 1.3 * seconds):
                self.row(**labels, note="left out: no time")
                continue
            began = time.monotonic()
            found = attempt(work, labels)
            seconds = time.monotonic() - began
            self.row(**labels, **found, s=round(seconds, 1))


def attempt(work: Callable[..., Row], labels: Row) -> Row:
    """What a case finds; its error where it fails, with device memory given back."""
    try:
        return work(**labels)
    except Skipped as error:
        return {"note": f"skipped: {error}"}
    except Failed as error:
        return {**error.found, "error": str(error)}
    except Exception as error:  # noqa: BLE001  (a case must not end the part)
        traceback.print_exc()
        traceback.clear_frames(error.__traceback__)
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return {"error": text}


def to_plain(value: Any) -> Any:
    """A value as JSON holds it."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value if isinstance(value, str | int | bool | None | list) else str(value)
