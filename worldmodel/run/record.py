"""What a run says of itself: the content of `run.json`."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shlex
import socket
import subprocess
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

import worldmodel
from worldmodel.machine.process import name_space, read_start
from worldmodel.redaction import hide_secrets
from worldmodel.run.budget import Budget
from worldmodel.run.timeline import Phase
from worldmodel.schema import model_hash, schema_hash
from worldmodel.training.checkpoint import Best


class State(StrEnum):
    """How far a run is, or how it ended."""

    CREATED = "created"
    """The folder exists; its workers have done no step yet, or wait for machines to go on."""
    RUNNING = "running"
    """At least one step has been done."""
    FINISHED = "finished"
    STOPPED = "stopped"
    """Ended early because somebody or something asked it to."""
    FAILED = "failed"
    """Ended by an error."""
    LOST = "lost"
    """Said by others, of a run that has given no sign of life."""


class Living(BaseModel):
    """What a record says of the process that writes it. Times are UTC."""

    state: State = State.CREATED
    reason: str = ""
    """Why it ended, in a line; what stopped it or the error."""
    hosts: list[str] = Field(default_factory=lambda: [socket.gethostname()])
    """Machines, that of the process which writes this record first."""
    pid: int = Field(default_factory=os.getpid)
    """The process that writes this record, on the first host."""
    pid_space: str = Field(default_factory=name_space)
    """What that number is a number of, see `worldmodel.machine.process`."""
    pid_start: int | None = Field(default_factory=lambda: read_start(os.getpid()))
    """When that process began, in its machine's ticks: a number is given again."""
    heartbeat: datetime = Field(default_factory=lambda: datetime.now(UTC))
    """When its process last gave a sign of life."""
    heartbeat_uptime: float | None = None
    """Seconds that its machine had been on by then: setting a clock changes the time of day, and not these."""
    ended: datetime | None = None


class Attempt(BaseModel):
    """An earlier process of the same run, before a resume."""

    model_config = ConfigDict(frozen=True)

    state: State
    reason: str = ""
    host: str = ""
    """Its first machine."""
    ended: datetime
    step: int
    """Optimizer steps done when it ended."""


class Interruption(BaseModel):
    """A loss or change of workers within one attempt, after which the run resumed automatically."""

    model_config = ConfigDict(frozen=True)

    at: datetime
    """Time of the last progress before it."""
    reason: str
    step: int
    """Last recorded step; up to some seconds old if a machine vanished without notice."""
    resumed_step: int
    """Step of the checkpoint that was restored."""
    seconds: float
    """From the last progress before it to the first step after it."""
    workers: int
    """Workers after it."""


class Seconds(BaseModel):
    """Wall-clock time, over all attempts."""

    model_config = ConfigDict(frozen=True)

    training: float = 0.0
    """Seconds in training steps."""
    data: float = 0.0
    """Of these, seconds waiting for data."""
    validation: float = 0.0
    """Seconds in validation."""
    total: float = 0.0
    """Seconds from start to end."""


class Estimate(BaseModel):
    """What the first steps of an attempt promised for all of it: made once, and never mended."""

    model_config = ConfigDict(frozen=True)

    seconds: float
    """Wall clock of this attempt, from its start to its end."""
    cost_usd: float | None = None
    """Dollars of this attempt; None: the price is unknown."""
    step: int
    """Optimizer steps that were done when it was made."""


class RunRecord(Living):
    """Everything that `worldmodel runs` and the card show."""

    model_config = ConfigDict(validate_assignment=True)

    name: str
    traceback: str = ""
    """Of the error that ended it."""
    rank: int | None = None
    """The worker whose error or loss ended it; None: it is not known, or all ended together."""
    ended_on: str = ""
    """The machine on which it ended."""
    ended_by: str = ""
    """Who wrote how it ended, where its own process could not."""
    device_state: dict[str, Any] = {}
    """How its machine was at the last sign of life, see `worldmodel.machine.device_state`."""
    lock: str = ""
    """Token of the lock under which it writes, see `worldmodel.run.lock`; empty: none."""
    metric_version: int = 1
    """Version of the metrics' meaning, see `worldmodel.training.metrics`."""
    last_lines: list[str] = []
    """The last lines of its log when it ended."""
    goal: str = ""
    """What the experiment is to show."""
    origins: dict[str, str] = {}
    """Dotted key to the layer that set it, such as "--set"; a key that is not listed has its built-in default."""
    axes: dict[str, Any] = {}
    """Dotted keys and values by which a grid's trial differs from others of its experiment."""
    command: str = Field(default_factory=lambda: make_command())
    """What started it."""
    resume_command: str = ""
    """What makes it go on."""
    commit: str | None = Field(default_factory=lambda: read_commit())
    """The code's git commit, with "-dirty" where files differed from it, or "source-" and a hash; None: unknown."""
    version: str = worldmodel.__version__
    """The package's version."""
    schema_hash: str = Field(default_factory=schema_hash)
    model_hash: str = Field(default_factory=model_hash)
    validated_games: tuple[int, int] | None = None
    """Games that each epoch validates, and all validation games; None: it is not known."""
    frames: str = ""
    """Where its frames are at hand, all or some at a time, and in how much room."""
    data_fingerprint: str = ""
    """Which games it is trained on, and how they are split."""
    blocks: str = ""
    """URI of the encoded games."""
    unrecorded: list[str] = []
    """Fields that no game records which it is trained on."""
    device: dict[str, Any] = {}
    """What it computes on, see `worldmodel.machine.device.describe_device`."""
    world_size: int = 1
    """Workers that train together."""
    started: datetime = Field(default_factory=lambda: datetime.now(UTC))
    updated: datetime = Field(default_factory=lambda: datetime.now(UTC))
    """When it last made progress."""
    seconds: Seconds = Seconds()
    step: int = 0
    """Optimizer steps done."""
    total_steps: int | None = None
    epoch: int = 0
    """Epochs completed."""
    validation_due: bool = False
    """True if the run stopped in the validation of the next epoch. A resume validates it first."""
    early_stopped: bool = False
    """Whether a scheduler ended it before its last step because others promised more; its numbers stand apart."""
    parameters: int | None = None
    """Numbers that the model learns."""
    metrics: dict[str, float | None] = {}
    """The last value of every metric; None where it was not finite."""
    best: Best | None = None
    checkpoint: str | None = None
    """The newest checkpoint, relative to the run folder."""
    price_per_hour_usd: float | None = None
    """What it holds of machines costs (its GPUs, or its part of a machine without); None: unknown."""
    price_origin: str = ""
    """Where that price comes from, or why it is unknown and what to set."""
    seconds_before: float = 0.0
    """Wall clock of earlier attempts."""
    cost_before_usd: float | None = None
    """Dollars of earlier attempts, at the prices of their time; None: they count at the present price."""
    estimate: Estimate | None = None
    """What this attempt promised to take; None: too little is known yet."""
    budget: Budget | None = None
    """What it may take, all attempts together; None: any amount."""
    wandb_id: str = Field(default_factory=lambda: secrets.token_hex(8))
    """W&B's id of the run: every attempt goes on in the same page."""
    wandb: str | None = None
    """Address of its W&B page, or the command that uploads it."""
    phases: list[Phase] = []
    """What passed before the first step, in the newest attempt; see `worldmodel.run.timeline`."""
    notes: list[str] = []
    """What went wrong without stopping it."""
    attempts: list[Attempt] = []
    """Earlier processes of this run."""
    starts: int = 0
    """Number of worker starts in this attempt."""
    interruptions: list[Interruption] = []
    """All interruptions, oldest first."""

    @property
    def validated(self) -> str:
        """Part of the validation games that each epoch measures, in words; empty for all games."""
        some, every = self.validated_games or (0, 0)
        return f"validated on {some:,} of {every:,} games" if some < every else ""

    @property
    def cost_usd(self) -> float | None:
        """Dollars so far, all attempts together; None where the price is unknown."""
        return self.price(self.seconds.total)

    def price(self, seconds: float) -> float | None:
        """Dollars of this run when it will have taken so many seconds in all; None where the price is unknown."""
        if self.price_per_hour_usd is None:
            return None
        if self.cost_before_usd is None:
            return self.price_per_hour_usd * seconds / 3600
        return self.cost_before_usd + self.price_per_hour_usd * (seconds - self.seconds_before) / 3600

    @property
    def seconds_promised(self) -> float | None:
        """Wall clock of all attempts by the estimate; None where there is none."""
        return None if self.estimate is None else self.seconds_before + self.estimate.seconds


def make_command() -> str:
    """The command line of this process, as it is submitted where it is a Ray job's.

    `WORLDMODEL_COMMAND` holds another one in a worker, whose own would start nothing.
    """
    if given := os.environ.get("WORLDMODEL_COMMAND"):
        return given
    script = Path(sys.argv[0])
    words = ["python", sys.argv[0]] if script.suffix == ".py" else [script.name]
    return hide_secrets(shlex.join([*_list_submission(), *words, *sys.argv[1:]]))


def _list_submission() -> list[str]:
    """The words that submit a command line, where this process is the driver of a Ray job."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    if "job_submission_id" not in job.get("metadata", {}):
        return []
    has_upload = "working_dir" in job.get("runtime_env", {})
    return ["ray", "job", "submit", *(["--working-dir", "."] if has_upload else []), "--"]


def read_commit() -> str | None:
    """The git commit of this code, with "-dirty" where tracked files differ.

    Where it is not a git checkout, as in a job's upload: what `WORLDMODEL_COMMIT` says, else "source-" and 12 hex
    digits that name the package's own source.
    """
    here = Path(__file__)
    try:
        _ask_git("ls-files", "--error-unmatch", here.name)
        dirty = _ask_git("status", "--porcelain", "--untracked-files=no", ":/")
        return _ask_git("rev-parse", "HEAD") + ("-dirty" if dirty else "")
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("WORLDMODEL_COMMIT") or f"source-{hash_source()[:12]}"


def hash_source() -> str:
    """sha256 (hex) of the package's Python files and their names, the same wherever the package lies."""
    root = Path(worldmodel.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _ask_git(*words: str) -> str:
    folder = Path(__file__).parent
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
