"""What a run or a grid says while it works, read from its folder as it grows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from worldmodel.cli.verb import report
from worldmodel.errors import UserError

if TYPE_CHECKING:
    from tune.record import GridRecord
    from worldmodel.run.record import RunRecord
    from worldmodel.storage import Location

LIVE_STATES = ("created", "running")


@dataclass
class LogTrail:
    """The lines of one run's log that have not been read yet."""

    run: Location
    offset: int = 0
    """Bytes of the log that have been read."""

    def read_new(self) -> list[str]:
        """Whole lines that were added since the last look."""
        from worldmodel.object_store import MissingError
        from worldmodel.run.log_file import LOG

        try:
            with (self.run / LOG).open_input() as stream:
                stream.seek(min(self.offset, stream.size()))
                content: bytes = stream.read()
        except MissingError:
            return []
        whole = content.rfind(b"\n") + 1
        self.offset += whole
        return content[:whole].decode(errors="replace").splitlines()


@dataclass
class Followed:
    """What is followed: a run or a grid."""

    location: Location
    """Its folder."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come."""
        raise NotImplementedError

    def read_last(self, count: int) -> list[str]:
        """The last lines so far, `count` of each run."""
        raise NotImplementedError

    def read_new(self) -> list[str]:
        """The lines since the last look."""
        raise NotImplementedError

    def request_stop(self, reason: str) -> None:
        """Ask for its end. UserError where it has ended."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """What is known of it, and of how it ended."""
        raise NotImplementedError


@dataclass
class FollowedRun(Followed):
    """A run: the lines of its log."""

    trail: LogTrail = field(init=False)

    def __post_init__(self) -> None:
        self.trail = LogTrail(self.location)

    def read_record(self) -> RunRecord:
        """What the run says of itself now."""
        from worldmodel.run.run_folder import read_record

        return read_record(self.location)

    @property
    def has_ended(self) -> bool:
        return self.read_record().state not in LIVE_STATES

    def read_last(self, count: int) -> list[str]:
        return (self.trail.read_new() or self.read_record().last_lines)[-count:] if count else []

    def read_new(self) -> list[str]:
        return self.trail.read_new()

    def request_stop(self, reason: str) -> None:
        from worldmodel.run.run_folder import request_stop

        request_stop(self.location, reason)

    def describe(self) -> dict[str, Any]:
        from worldmodel.run.run_folder import describe_end

        record = self.read_record()
        return describe(record, self.location, step=record.step, end=describe_end(record))


@dataclass
class FollowedGrid(Followed):
    """A grid: the lines of all its trials, under their names, and how each ended."""

    trails: dict[str, LogTrail] = field(default_factory=dict)
    """By trial, of those that have begun."""
    states: dict[str, str] = field(default_factory=dict)
    """What has been said of each trial."""

    def read_record(self) -> GridRecord:
        """What the grid says of itself now."""
        from tune.record import read_grid

        return read_grid(self.location)

    def read_records(self) -> dict[str, RunRecord]:
        """The records of the trials that have begun, by name."""
        from worldmodel.object_store import MissingError
        from worldmodel.run.run_folder import read_record

        found = {}
        for trial in self.read_record().trials:
            with suppress(MissingError):
                found[trial.name] = read_record(self.location / trial.name)
        return found

    @property
    def has_ended(self) -> bool:
        return self.read_record().state not in LIVE_STATES

    def read_last(self, count: int) -> list[str]:
        return self._read(count)

    def read_new(self) -> list[str]:
        return self._read(None)

    def _read(self, count: int | None) -> list[str]:
        """What all trials said, `count` lines at most of each live one (None: all), and which have ended."""
        from worldmodel.run.run_folder import describe_end

        found: list[str] = []
        records = self.read_records()  # before the logs: a run that has ended writes no more
        width = max(map(len, records), default=0)
        for name, record in records.items():
            trail = self.trails.setdefault(name, LogTrail(self.location / name))
            lines, is_live = trail.read_new(), record.state in LIVE_STATES
            if count is not None:
                lines = lines[-count:] if is_live and count else []
            if not is_live and self.states.get(name) != record.state:
                lines.append(describe_end(record))
            self.states[name] = record.state
            found += [f"{name:<{width}} | {line}" for line in lines]
        return found

    def request_stop(self, reason: str) -> None:
        from worldmodel.run.run_folder import describe_asker, request_stop
        from worldmodel.run.stop_request import STOP

        record = self.read_record()
        if record.state not in LIVE_STATES:
            raise UserError(f"grid {record.name} is not running: {describe_grid(record, self.read_records())}")
        (self.location / STOP).write_text(f"{reason or describe_asker()}\n")
        for name, trial in self.read_records().items():
            if trial.state in LIVE_STATES:
                with suppress(UserError):  # it ended just now
                    request_stop(self.location / name, reason)

    def describe(self) -> dict[str, Any]:
        from worldmodel.run.run_folder import describe_end

        record, trials = self.read_record(), self.read_records()
        ends = {name: describe_end(trial) for name, trial in trials.items()}
        return describe(record, self.location, trials=ends, end=describe_grid(record, trials))


def describe(record: RunRecord | GridRecord, location: Location, **more: Any) -> dict[str, Any]:
    """What runs and grids have in common, as a result."""
    return {
        "name": record.name,
        "location": str(location),
        "state": record.state.value,
        "reason": record.reason,
        "resume_command": record.resume_command,
        **more,
    }


def describe_grid(record: GridRecord, trials: Mapping[str, RunRecord]) -> str:
    """State, trials and reason of a grid in a line."""
    done = sum(trial.state == "finished" for trial in trials.values())
    reason = f" ({record.reason})" if record.reason else ""
    return f"{record.state.value} with {done} of {len(record.trials)} trials finished{reason}"


def wait_for_end(followed: Followed, take: Callable[[list[str]], object] = len) -> None:
    """Hand on new lines until a run or grid has ended; a storage that cannot be reached for a while is reported."""
    from worldmodel.object_store import StorageError
    from worldmodel.run.run import POLL_SECONDS, REMOTE_POLL_SECONDS

    pause, trouble = POLL_SECONDS.get(followed.location.scheme, REMOTE_POLL_SECONDS), ""
    while True:
        try:
            has_ended = followed.has_ended
            take(followed.read_new())
            if has_ended:
                return
        except StorageError as error:
            if str(error) != trouble:
                report(f"note: {error}")
            trouble = str(error)
        time.sleep(pause)
