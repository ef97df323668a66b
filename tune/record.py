"""What a grid says of itself: the content of `STORAGE/NAME/grid.json`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from tune.variants import Trial
from worldmodel.errors import UserError
from worldmodel.run.record import Living, make_command, read_commit
from worldmodel.run.run_folder import judge_life
from worldmodel.run.timeline import Phase
from worldmodel.storage import Location, check_plain_name

GRID = "grid.json"


class TrialName(BaseModel):
    """Which trial a run folder of the grid's is."""

    model_config = ConfigDict(frozen=True)

    name: Annotated[str, AfterValidator(check_plain_name)]
    """Of its run folder, below the grid's; leads nowhere else, whoever wrote the record."""
    experiment: str
    seed: int
    axes: dict[str, Any] = {}
    """As `Trial.axes`."""


class GridRecord(Living):
    """What a grid is made of, and how it ended, as its driver knows it. Seconds and dollars are over all attempts."""

    name: str
    command: str = Field(default_factory=make_command)
    """What started it."""
    resume_command: str = ""
    """What makes it go on."""
    commit: str | None = Field(default_factory=read_commit)
    trials: list[TrialName] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    """What readers of its tables should know, such as how far rows are from what was published."""
    blocks: str = ""
    """URI of the encoded games that all trials share."""
    cluster: dict[str, float] = Field(default_factory=dict)
    """What the Ray it ran on had in all: CPUs, GPUs, machines."""
    at_once: int = 1
    """Trials that run at once."""
    phases: list[Phase] = Field(default_factory=list)
    """What passed before the trials, in the newest attempt; see `tune.timeline`."""
    started: datetime = Field(default_factory=lambda: datetime.now(UTC))
    seconds: float = 0.0
    """Wall clock of the grid, over all attempts."""
    estimated_seconds: float | None = None
    """Wall clock that its first steps promised for all of it."""
    cost_usd: float | None = None
    """Dollars of its trials; None: a price is unknown."""
    estimated_cost_usd: float | None = None


def read_grid(folder: Location) -> GridRecord:
    """The record of a grid's folder, with "lost" in place of "running" where its driver is gone.

    Raises:
        MissingError: there is none.
        UserError: it cannot be understood.
    """
    try:
        return judge_life(GridRecord.model_validate_json((folder / GRID).read_bytes()))
    except ValidationError as error:
        raise UserError(f"{folder / GRID} cannot be understood: {error}") from error


def write_grid(folder: Location, record: GridRecord) -> None:
    """Write a grid's record, atomically."""
    (folder / GRID).write_text(record.model_dump_json(indent=1) + "\n")


def name_trial(trial: Trial) -> TrialName:
    """A trial as the grid's record names it."""
    return TrialName(name=trial.name, experiment=trial.experiment, seed=trial.seed, axes=dict(trial.axes))
