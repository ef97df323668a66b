"""Metrics: first to the run's own `metrics.jsonl`, then, from the same numbers, to W&B.

A line of `metrics.jsonl` is one JSON object: `step` (optimizer steps done), `time` (seconds since 1970, UTC), and the
metrics under the users' names (`loss/total`, `val_metric/position_mae`, ...). A value that is not finite is null, and
its name stands in the list `nonfinite`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from worldmodel.appender import open_appender
from worldmodel.experiment.config import TrackingConfig
from worldmodel.object_store import MissingError, StorageError
from worldmodel.run.wandb_sink import WandbSink, choose_mode
from worldmodel.storage import Location

METRICS = "metrics.jsonl"
NONFINITE = "nonfinite"


class Tracker:
    """Takes a run's metrics. Nothing that fails here ends the run: it is told to `note`."""

    def __init__(
        self,
        location: Location,
        tracking: TrackingConfig,
        config: Mapping[str, Any],
        note: Callable[[str], None],
        wandb_id: str,
    ) -> None:
        """Opens the metrics of a run folder, and W&B beside it.

        Args:
            location: the run folder.
            tracking: where metrics go besides.
            config: the experiment as nested plain values, for W&B's page; holds no secret.
            note: called, also from other threads, with what went wrong.
            wandb_id: W&B's id of the run; a resumed run has the same.
        """
        self._note = note
        self._file = open_appender(location / METRICS)
        is_wanted = choose_mode(tracking.wandb)[0] != "disabled"
        self._wandb = WandbSink(location, tracking, config, note, wandb_id) if is_wanted else None

    @property
    def address(self) -> str | None:
        """Address of the run's W&B page, or the command that uploads it; None where there is none (yet)."""
        return self._wandb.address if self._wandb else None

    def log(self, values: Mapping[str, float | int], step: int) -> None:
        """Records metrics after `step` optimizer steps; W&B gets the same numbers later and is never waited for."""
        row = {"step": step, "time": round(time.time(), 3), **{name: float(value) for name, value in values.items()}}
        try:
            self._file.write_line(render_row(row))
        except StorageError as error:
            self._note(f"lines of {METRICS} wait for room: {error}")
        if self._wandb:
            self._wandb.log(row)

    def close(self) -> None:
        """Stores what is left; gives W&B half a minute to finish."""
        if self._wandb:
            self._wandb.close()
        try:
            self._file.close()
        except StorageError as error:
            self._note(f"{METRICS} could not be stored: {error}")

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def render_row(row: Mapping[str, float | int]) -> str:
    """One line of `metrics.jsonl`: valid JSON whatever the numbers are."""
    odd = [name for name, value in row.items() if not math.isfinite(value)]
    clean: dict[str, Any] = {name: None if name in odd else value for name, value in row.items()}
    return json.dumps({**clean, NONFINITE: odd} if odd else clean, allow_nan=False)


def read_metrics(location: Location) -> list[dict[str, Any]]:
    """The rows of a run folder's `metrics.jsonl`, one for each step, in order; none where there is no file.

    Rows of one step are merged, the later number wins: a run that died and resumed repeats some steps. A line that a
    crash tore is passed over.
    """
    try:
        lines = (location / METRICS).read_text().splitlines()
    except MissingError:
        return []
    rows: dict[int, dict[str, Any]] = {}
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.setdefault(row["step"], {}).update(row)
    return [rows[step] for step in sorted(rows)]
