"""What a cluster has cost so far, and how it ended: the record that its keeper writes below the storage.

`STORAGE/clusters/NAME-START.json` stands beside the grids that the cluster computed, so that it can be read when all
machines are gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from worldmodel.errors import UserError
from worldmodel.storage import Location

FOLDER = "clusters"
"""Folder of the storage that holds these records."""
HOUR = 3600.0


class ClusterRecord(BaseModel):
    """What is known of a cluster."""

    name: str
    """The YAML's `cluster_name`."""
    state: Literal["running", "ended"] = "running"
    reason: str = ""
    """Why it ended."""
    started: datetime = Field(default_factory=lambda: datetime.now(UTC))
    updated: datetime = Field(default_factory=lambda: datetime.now(UTC))
    seconds: float = 0.0
    """Time that its head has been watched."""
    machine_seconds: dict[str, float] = {}
    """Time that machines of each node type have been there, added up."""
    most_machines: dict[str, int] = {}
    """Most machines of each node type at once."""
    problems: list[str] = []
    """Why machines that were asked for did not come, each once."""
    cost_usd: float | None = None
    """Dollars so far; None: a machine of unknown price was there."""

    @property
    def file(self) -> str:
        """Its file's name."""
        return f"{self.name}-{self.started:%Y%m%dT%H%M%SZ}.json"

    def add(self, seconds: float, kinds: Iterable[str], prices: Mapping[str, float]) -> None:
        """Count `seconds` more, with machines of these node types there; `prices`: dollars per hour of one."""
        counts = Counter(kinds)
        self.seconds += seconds
        self.updated = datetime.now(UTC)
        for kind, count in counts.items():
            self.machine_seconds[kind] = self.machine_seconds.get(kind, 0.0) + count * seconds
            self.most_machines[kind] = max(self.most_machines.get(kind, 0), count)
        if all(kind in prices for kind in self.machine_seconds):
            self.cost_usd = sum(spent * prices[kind] / HOUR for kind, spent in self.machine_seconds.items())
        else:
            self.cost_usd = None

    def close(self, reason: str) -> None:
        """It ended."""
        self.state, self.reason, self.updated = "ended", reason, datetime.now(UTC)

    def describe(self) -> str:
        """A line for people."""
        cost = "cost unknown (dollars_per_hour)" if self.cost_usd is None else f"about ${self.cost_usd:.2f}"
        most = ", ".join(f"{count} {kind}" for kind, count in sorted(self.most_machines.items())) or "no rented machine"
        return f"{self.name}: {self.seconds / HOUR:.2f} hours, at most {most}; {cost}"


def load_record(name: str, path: Path) -> ClusterRecord:
    """The record that this machine's keeper kept before it was restarted, else a new one."""
    try:
        found = ClusterRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return ClusterRecord(name=name)
    is_same = found.name == name and found.state == "running"
    return found if is_same else ClusterRecord(name=name)


def save_record(record: ClusterRecord, path: Path, storage: str) -> str:
    """Write a record to the head's disk and to the storage; returns what went wrong with the latter, or nothing."""
    text = record.model_dump_json(indent=1) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    try:
        (Location.of(storage) / FOLDER / record.file).write_text(text)
    except UserError as error:
        return str(error)
    return ""
