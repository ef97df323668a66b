"""Watches for its cloud's notice that this machine will be taken away, and tells runs and Ray.

A notice becomes a note (`~/.worldmodel/notice.json`), on which runs here save themselves, and `ray drain-node`: Ray
starts nothing new here, and ends here as soon as nothing runs. The head is not drained: its keeper ends the cluster. A
notice that is withdrawn takes the note with it, but Ray knows no way back: the machine stays drained until Ray is
started again here. A machine without a metadata service, such as a person's own, needs no watcher: it ends.

    python -m cluster.notice start        in the background, in place of one that runs
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import psutil

from cluster.background import begin, say
from cluster.metadata import Cloud, find_cloud
from worldmodel.machine.notice import Notice, find_notice_file

LOOK_SECONDS, DRAIN_SECONDS = 1.0, 20.0
"""Time between two looks; longest wait for Ray."""


@dataclass(frozen=True, kw_only=True)
class Raylet:
    """A Ray node on this machine."""

    node: str
    head: str
    """HOST:PORT of its head's control process."""
    is_head: bool


def find_raylets() -> list[Raylet]:
    """Those that run, by their own command lines: the dashboard, which lists nodes, answers on the head alone."""
    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        words = dict(word.partition("=")[::2] for word in process.info["cmdline"] or [])
        if process.info["name"] == "raylet" and "--node_id" in words:
            found.append(Raylet(node=words["--node_id"], head=words["--gcs-address"], is_head="--head" in words))
    return found


def drain(raylet: Raylet, notice: Notice) -> str:
    """Tell Ray; returns what went wrong, or nothing."""
    remaining = max(0, int(notice.deadline - time.time()))
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", raylet.head, "--node-id", raylet.node,
        "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", notice.reason,
        "--deadline-remaining-seconds", str(remaining),
    ]  # fmt: skip
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DRAIN_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (ended.stderr.strip() or f"exit status {ended.returncode}") if ended.returncode else ""


@dataclass(kw_only=True)
class Watcher:
    """Watches one machine."""

    cloud: Cloud
    find_raylets: Callable[[], Sequence[Raylet]] = find_raylets
    drain: Callable[[Raylet, Notice], str] = drain
    say: Callable[[str], None] = say
    notice: Notice | None = None
    """The one that stands."""
    _drained: set[str] = field(default_factory=set)
    _problems: set[str] = field(default_factory=set)
    """What was said already."""

    def look(self) -> None:
        """Ask the cloud, once; a service that fails takes no notice back."""
        try:
            found = self.cloud.look()
        except Exception as error:  # noqa: BLE001  (whatever it answers: it is asked again, and said)
            self._complain(f"{self.cloud.name}'s metadata service: {type(error).__name__}: {error}; it is asked again")
            found = self.notice
        if found is None and self.notice is not None:
            self._withdraw()
        elif found is not None and self._is_news(found):
            self._take(found)
        if self.notice is not None:
            self._drain(self.notice)

    def _is_news(self, found: Notice) -> bool:
        """A cloud that names no time, or the same again later, says nothing new."""
        last = self.notice
        return last is None or found.reason != last.reason or found.deadline < last.deadline - 1

    def _take(self, found: Notice) -> None:
        self.notice, self._drained = found, set()
        write_note(found, self.cloud.name)
        self.say(f"{found.reason} in {found.deadline - time.time():.0f} s")

    def _withdraw(self) -> None:
        self.notice, self._problems = None, set()
        find_notice_file().unlink(missing_ok=True)
        again = ": it takes no new work until Ray is started again here" if self._drained else ""
        self.say(f"{self.cloud.name} withdrew its notice: this machine stays{again}")

    def _drain(self, notice: Notice) -> None:
        raylets = self.find_raylets()
        if not raylets and not self._drained:
            self._complain("no Ray runs here yet: the node is drained as soon as one does")
        for raylet in raylets:
            if raylet.node in self._drained:
                continue
            problem = "" if raylet.is_head else self.drain(raylet, notice)
            if problem:
                self._complain(f"ray drain-node failed and is retried: {problem}")
                continue
            self._drained.add(raylet.node)
            self.say("this is the head: its keeper ends the cluster" if raylet.is_head else "ray drain-node succeeded")

    def _complain(self, problem: str) -> None:
        if problem not in self._problems:
            self._problems.add(problem)
            self.say(problem)


def write_note(notice: Notice, cloud: str) -> None:
    """Write it whole or not at all."""
    file = find_notice_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps({**asdict(notice), "cloud": cloud}))
    part.replace(file)


def watch() -> int:
    """Watch this machine for as long as it runs."""
    find_notice_file().unlink(missing_ok=True)  # of an earlier life: what still stands is written again at once
    cloud = find_cloud()
    if cloud is None:
        say("no cloud metadata service answers: no notice can arrive on this machine, the watcher ends")
        return 0
    say(f"watching for {cloud.name}'s notices")
    watcher = Watcher(cloud=cloud)
    while True:
        watcher.look()
        time.sleep(LOOK_SECONDS)


def start() -> int:
    """Watch in the background."""
    begin("notice")
    return 0


def main() -> int:
    """`start` or `watch`."""
    verbs = {"start": start, "watch": watch}
    if len(sys.argv) != 2 or sys.argv[1] not in verbs:
        print("usage: python -m cluster.notice start|watch", file=sys.stderr)
        return 2
    return verbs[sys.argv[1]]()


if __name__ == "__main__":
    sys.exit(main())
