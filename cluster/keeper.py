"""Runs on a cluster's head and ends the cluster, head included, when nobody needs it or its budget is spent.

Ray's autoscaler ends workers that are idle, never the head. The keeper looks every half minute: without a job for
`head_idle_minutes`, or at `budget_hours` or `budget_usd`, it asks running jobs to stop (they save their checkpoints),
ends all machines, and says why in `~/.worldmodel/keeper.log` and in `STORAGE/clusters/`. A Ray that does not answer
counts as one without a job. Where the cloud announces that it takes the head away, it does so within the notice, and
says with which command to go on elsewhere.

    python -m cluster.keeper start        in the background, restarted if it fails; in place of one that runs
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cluster.background import HOME, begin, say
from cluster.launch_errors import explain
from cluster.ledger import HOUR, ClusterRecord, load_record, save_record
from cluster.machines import Machines, find_machines
from cluster.settings import Settings, parse_settings, read_config
from worldmodel.errors import UserError
from worldmodel.machine.notice import Notice, read_notice

STATE = HOME / "keeper.json"
"""What it counted, for its successor."""
DASHBOARD = "http://127.0.0.1:8265"
LOOK_SECONDS = float(os.environ.get("WORLDMODEL_KEEPER_SECONDS", "30"))
"""Time between two looks."""
NOTICE_SECONDS = 2.0
"""Time between two looks for a notice."""
END_SECONDS = 15.0
"""What is kept of a notice for ending the machines."""
SAVE_SECONDS = 300.0
"""Time between two writings of the record while nothing happens."""
SHUTDOWN = os.environ.get("WORLDMODEL_SHUTDOWN", "sudo shutdown -h now")
"""Ends this machine where the cloud's own call does not."""
RAY_LOGS = Path("/tmp/ray/session_latest/logs")
"""Where the Ray of this head writes."""
NEWS_BYTES = 1 << 20
"""Most that is read of a log at a time."""
MINUTE = 60.0


class Jobs(Protocol):
    """What the keeper needs of Ray's jobs."""

    def look(self) -> tuple[list[str], float] | None:
        """Jobs that wait or run, and when the last one ended (seconds since 1970; 0: none did); None: no answer."""

    def find_commands(self, jobs: list[str]) -> list[str]:
        """The commands that were submitted; those that are not known are left out."""

    def stop(self, jobs: list[str]) -> None:
        """Ask jobs to stop."""


class RayJobs:
    """Those of the Ray on this machine, through its dashboard."""

    def look(self) -> tuple[list[str], float] | None:
        """Submitted jobs, and drivers that somebody started by hand."""
        from ray.job_submission import JobSubmissionClient

        try:
            found = JobSubmissionClient(DASHBOARD).list_jobs()
        except Exception:  # noqa: BLE001  (whatever keeps Ray from answering, it does not)
            return None
        live = [job.submission_id or job.job_id or "?" for job in found if not job.status.is_terminal()]
        return live, max((job.end_time or 0 for job in found), default=0) / 1000

    def find_commands(self, jobs: list[str]) -> list[str]:
        """Their entry points."""
        from ray.job_submission import JobSubmissionClient

        with suppress(Exception):  # Ray may be going already
            found = JobSubmissionClient(DASHBOARD).list_jobs()
            return [job.entrypoint for job in found if job.submission_id in jobs]
        return []

    def stop(self, jobs: list[str]) -> None:
        """Ray sends SIGTERM, and SIGKILL after RAY_JOB_STOP_WAIT_TIME_S."""
        from ray.job_submission import JobSubmissionClient

        client = JobSubmissionClient(DASHBOARD)
        for job in jobs:
            with suppress(Exception):  # one that has ended, or was started by hand, cannot be stopped
                client.stop_job(job)


@dataclass(kw_only=True)
class Keeper:
    """Watches one cluster."""

    settings: Settings
    record: ClusterRecord
    jobs: Jobs
    machines: Machines
    say: Callable[[str], None]
    save: Callable[[ClusterRecord], str]
    """Keeps the record; returns what went wrong."""
    read_notice: Callable[[], Notice | None] = read_notice
    """That this machine, the head, is about to be taken away."""
    read_news: Callable[[], str] = str
    """What Ray's autoscaler has written since it was asked last."""
    clock: Callable[[], float] = time.time
    """Seconds since 1970."""
    sleep: Callable[[float], None] = time.sleep
    _last_look: float = field(init=False)
    _last_needed: float = field(init=False)
    """When a job was last there."""
    _last_saved: float = 0.0
    _kinds: list[str] = field(default_factory=list)
    """Of the machines, when the cloud last listed them."""

    def __post_init__(self) -> None:
        self._last_look = self._last_needed = self.clock()

    def run(self) -> None:
        """Look until there is a reason to end; then end the cluster."""
        reason = self.look()
        while not reason:
            self._wait()
            notice = self.read_notice()
            if notice is not None:
                return self.leave(notice)
            reason = self.look()
        self.end(reason)

    def _wait(self) -> None:
        until = self.clock() + LOOK_SECONDS
        while self.clock() < until and self.read_notice() is None:
            self.sleep(min(NOTICE_SECONDS, LOOK_SECONDS))

    def look(self) -> str:
        """Count what has passed; returns why the cluster is to end, or nothing."""
        now = self.clock()
        try:
            self._kinds = list(self.machines.list_kinds().values())
        except Exception as error:  # noqa: BLE001  (a cloud that does not answer must not end the keeper)
            self.say(f"the cloud does not list the machines, they are taken to be the same: {error}")
        self.record.add(max(0.0, now - self._last_look), self._kinds, self.settings.dollars_per_hour)
        self._last_look = now
        self._note_problem(explain(self.read_news()))
        found = self.jobs.look()
        if found is not None:
            self._last_needed = max(self._last_needed, now if found[0] else found[1])
        if now - self._last_saved > SAVE_SECONDS:
            self._keep()
        return self._judge(now, has_answer=found is not None)

    def _note_problem(self, problem: str) -> None:
        if problem and problem not in self.record.problems:
            self.say(f"no machine came: {problem}")
            self.record.problems.append(problem)
            self._last_saved = 0.0

    def _judge(self, now: float, *, has_answer: bool) -> str:
        settings, record = self.settings, self.record
        if settings.budget_hours is not None and record.seconds >= settings.budget_hours * HOUR:
            return f"its budget of {settings.budget_hours:g} hours is spent"
        if settings.budget_usd is not None and (record.cost_usd or 0.0) >= settings.budget_usd:
            return f"its budget of ${settings.budget_usd:g} is spent"
        idle = (now - self._last_needed) / MINUTE
        if settings.head_idle_minutes and idle >= settings.head_idle_minutes:
            what = "no job" if has_answer else "no answer of Ray's"
            return f"there was {what} for {idle:.0f} minutes"
        return ""

    def leave(self, notice: Notice) -> None:
        """End the cluster within the notice. The record comes first: this head may be gone sooner than promised."""
        from worldmodel.run.run_folder import add_resume  # torch comes with it: not while all is well

        found = self.jobs.look()
        commands = self.jobs.find_commands(found[0]) if found else []
        again = "".join(f"; ray job submit -- {add_resume(command)}" for command in commands)
        reason = f"{notice.reason}, and it is the head. Go on in another zone or region: ray up FILE{again}"
        self.record.reason = reason
        self._keep()
        self.end(reason, notice.deadline - END_SECONDS)

    def end(self, reason: str, deadline: float = math.inf) -> None:
        """Stop what runs, write why, end the machines. `deadline`: until when jobs may take their time."""
        self.say(f"ending the cluster: {reason}")
        self._stop_jobs(deadline)
        self.record.close(reason)
        self._keep()
        self.say(self.record.describe())
        self.machines.end(self.say)

    def _stop_jobs(self, deadline: float) -> None:
        patience = min(deadline, self.clock() + float(os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", "3")) + MINUTE)
        found = self.jobs.look()
        if found is None or not found[0]:
            return
        self.say(f"asking jobs to stop: {', '.join(found[0])}")
        self.jobs.stop(found[0])
        while found is not None and found[0] and self.clock() < patience:
            self.sleep(1.0)
            found = self.jobs.look()

    def _keep(self) -> None:
        self._last_saved = self.clock()
        if problem := self.save(self.record):
            self.say(f"the record was not written: {problem}")


class AutoscalerLog:
    """What Ray's autoscaler writes on this head; it names there what a cloud refuses, and nowhere else."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._read = folder, dict[Path, int]()

    def read_news(self) -> str:
        """What is new since the last time; at first, all of it."""
        return "".join(self._read_on(path) for path in sorted(self._folder.glob("monitor*")))

    def _read_on(self, path: Path) -> str:
        with suppress(OSError), path.open("rb") as file:
            size = path.stat().st_size
            start = self._read.get(path.resolve(), 0)
            file.seek(max(start if start <= size else 0, size - NEWS_BYTES))
            self._read[path.resolve()] = size
            return file.read().decode(errors="replace")
        return ""


def watch() -> int:
    """Watch the cluster whose head this machine is, until it ends."""
    config = read_config()
    settings = parse_settings(config)
    record = load_record(config["cluster_name"], STATE)
    keeper = Keeper(
        settings=settings, record=record, jobs=RayJobs(), machines=find_machines(config, SHUTDOWN), say=say,
        save=lambda found: save_record(found, STATE, settings.storage),
        read_news=AutoscalerLog(RAY_LOGS).read_news,
    )  # fmt: skip
    say(f"watching {record.name}: {describe_limits(settings)}")
    keeper.run()
    return 0


def describe_limits(settings: Settings) -> str:
    """When it will end the cluster."""
    limits = [f"after {settings.head_idle_minutes:g} minutes without a job"] if settings.head_idle_minutes else []
    limits += [f"after {settings.budget_hours:g} hours"] if settings.budget_hours is not None else []
    limits += [f"at ${settings.budget_usd:g}"] if settings.budget_usd is not None else []
    return "ends " + ", ".join(limits) if limits else "never ends it: no limit is set"


def start() -> int:
    """Start a keeper in the background, in place of one that runs."""
    parse_settings(read_config())
    print(f"the keeper watches this cluster: {begin('keeper')}")
    return 0


def main() -> int:
    """`start` or `watch`; the exit status is 2 where the settings cannot be used."""
    verbs = {"start": start, "watch": watch}
    if len(sys.argv) != 2 or sys.argv[1] not in verbs:
        print("usage: python -m cluster.keeper start|watch", file=sys.stderr)
        return 2
    try:
        return verbs[sys.argv[1]]()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
