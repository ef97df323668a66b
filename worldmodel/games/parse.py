"""Many replays into a folder of parsed games, in parallel; what is left out is named with its reason."""

from __future__ import annotations

import importlib.util
import json
import selectors
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.errors import UserError
from worldmodel.games.output import writing_alone
from worldmodel.games.parser_process import TIMEOUT, Job, Outcome, ParserProcess
from worldmodel.games.source import REPLAY_ENDINGS, is_replay
from worldmodel.games.writer import open_output, read_entries, write_meta, write_whole
from worldmodel.progress import Tell, say_nothing
from worldmodel.storage import Location

_STAGING = ".staging"
_REASON_HEAD = 60


@dataclass(frozen=True, kw_only=True)
class ParseSummary:
    """What one run over a folder of replays did. Every replay counts once: parsed, skipped or rejected."""

    out: str
    parsed: int
    """Games written by this run."""
    skipped: int
    """Games that the output held already."""
    rejected: int
    """Replays that gave no game; `OUT/rejected.json` says why."""
    ignored: int
    """Files that are no replays, by their name."""
    frames: int
    """Frames of all games in the output whose entries say so."""
    games: int
    """Games in the output, of earlier runs too."""


def parse_replays(
    source: Path,
    out: Path,
    *,
    workers: int = 2,
    tell: Tell = say_nothing,
    timeout: float = TIMEOUT,
    is_mirror: bool = False,
) -> ParseSummary:
    """Parse every `.slp` and `.slp.gz` at or below `source` into `out` (parsed layout), with `workers` processes.

    The result depends on the files alone: of two copies of a game the first by path stays. A run over an `out` that
    holds games keeps them and goes on; as a mirror, `out` loses those whose replay is not in `source`. `timeout`:
    seconds for one replay. Raises UserError where there is nothing to read, nowhere to write, or not one game among the
    replays.
    """
    if workers < 1:
        raise UserError(f"{workers} workers asked for, expected at least 1")
    files, ignored = _find_replays(source)
    _require_parser()
    jobs = [Job(number=n, path=str(path), source=name) for n, (name, path) in enumerate(files)]
    with writing_alone(Location.of(out)):
        open_output(out)
        collector = Collector(out=out, entries=read_entries(out), is_mirror=is_mirror)
        shutil.rmtree(out / _STAGING, ignore_errors=True)
        outcomes = _parse_all(jobs, out / _STAGING, set(collector.entries), workers, timeout)
        try:
            for done, outcome in enumerate(outcomes, 1):
                collector.add(jobs[outcome.number].source, outcome)
                tell("parsing replays", done, len(jobs))
        finally:
            shutil.rmtree(out / _STAGING, ignore_errors=True)
        return collector.finish(ignored)


def _find_replays(source: Path) -> tuple[list[tuple[str, Path]], int]:
    """(name relative to `source`, path) of every replay, ordered by name, and the number of other files."""
    if not source.exists():
        raise UserError(f"no such folder: {source}. Name a folder with .slp or .slp.gz files.")
    if source.is_file():
        return [(source.name, source)], 0
    files = [path for path in source.rglob("*") if path.is_file()]
    replays = [path for path in files if is_replay(path.name)]
    if not replays:
        raise UserError(f"no replays below {source}: {len(files)} files, none ends in {' or '.join(REPLAY_ENDINGS)}")
    named = [(path.relative_to(source).as_posix(), path) for path in replays]
    return sorted(named), len(files) - len(replays)


def _require_parser() -> None:
    if importlib.util.find_spec("peppi_py") is None:
        raise UserError("replays need the parser peppi, which is not installed: pip install 'worldmodel[replay]'")


def _parse_all(jobs: list[Job], staging: Path, known: set[str], workers: int, timeout: float) -> Iterator[Outcome]:
    """Outcomes in the order of `jobs`, whichever process is done first."""
    waiting: dict[int, Outcome] = {}
    following = 0
    for outcome in _run_processes(jobs, staging, known, workers, timeout):
        waiting[outcome.number] = outcome
        while following in waiting:
            yield waiting.pop(following)
            following += 1


def _run_processes(jobs: list[Job], staging: Path, known: set[str], workers: int, timeout: float) -> Iterator[Outcome]:
    queue = iter(jobs)
    with ExitStack() as stack:
        parsers = [ParserProcess(staging, known, timeout) for _ in range(min(workers, len(jobs)))]
        for parser in parsers:
            stack.callback(parser.stop)
        busy = [parser for parser in parsers if _feed(parser, queue)]
        while busy:
            for parser in _wait(busy):
                outcome = parser.take()
                if outcome is not None:
                    yield outcome
            for parser in busy:
                late = parser.give_up_late()
                if late is not None:
                    yield late
            busy = [parser for parser in busy if not parser.is_idle or _feed(parser, queue)]


def _feed(parser: ParserProcess, queue: Iterator[Job]) -> bool:
    job = next(queue, None)
    if job is not None:
        parser.give(job)
    return job is not None


def _wait(busy: list[ParserProcess]) -> list[ParserProcess]:
    """The processes that have something to say, at the latest when the first of them is late."""
    with selectors.DefaultSelector() as selector:
        for parser in busy:
            selector.register(parser.outlet, selectors.EVENT_READ, parser)
        ready = selector.select(min(parser.seconds_left for parser in busy))
    return [key.data for key, _ in ready]


class Collector:
    """Takes outcomes in the order of files, keeps the first of each game and writes what the run leaves behind."""

    def __init__(self, out: Path, entries: dict[str, dict[str, Any]], is_mirror: bool = False) -> None:
        self._out, self.entries, self._is_mirror = out, entries, is_mirror
        self._before = set(entries)
        self._claimed: dict[str, str] = {}
        self._starts = {} if is_mirror else {_start(entry): _name(entry) for entry in entries.values() if _start(entry)}
        self._rejected: list[dict[str, str]] = []
        self._parsed = self._skipped = 0

    def add(self, source: str, outcome: Outcome) -> None:
        """Keep the game of one replay, or note why not. UserError where the machine, not the file, is at fault."""
        if outcome.failure:
            raise UserError(f"cannot go on after {source}: {outcome.failure}. A new run goes on where this one ended.")
        first, entry = self._claimed.get(outcome.md5), outcome.entry or self.entries.get(outcome.md5, {})
        twin = self._starts.get(_start(entry))
        reason = outcome.reason
        if first is not None and not reason:
            reason = f"duplicate: the same bytes as {first}"
        elif not reason and outcome.md5 in self._before and (twin is None or not self._is_mirror):
            self._skipped += 1
        elif not reason and twin is not None:
            reason = f"near duplicate: same game start block (players, stage, random seed) as {twin}"
        elif not reason:
            self._keep(outcome)
        if not reason and _start(entry):
            self._starts.setdefault(_start(entry), _name(entry))
        if reason:
            self._rejected.append({"file": source, "reason": reason})
        else:
            self._claimed[outcome.md5] = source

    def _keep(self, outcome: Outcome) -> None:
        staged = self._out / _STAGING / str(outcome.number)
        for name in (f"frame_ids/{outcome.md5}.npy", f"games/{outcome.md5}"):
            (self._out / name).parent.mkdir(exist_ok=True)
            (staged / name).replace(self._out / name)
        self.entries[outcome.md5] = outcome.entry
        self._parsed += 1

    def finish(self, ignored: int) -> ParseSummary:
        """Write `rejected.json` and, last, `meta.json`; games that go leave it before their files do."""
        write_whole(self._out / "rejected.json", json.dumps(self._rejected, indent=1).encode())
        gone = self.entries.keys() - self._claimed.keys() if self._is_mirror else set()
        if len(gone) == len(self.entries):
            raise UserError(self._explain_nothing())
        for md5 in gone:
            del self.entries[md5]
        write_meta(self._out, self.entries.values())
        for md5 in gone:
            for name in (f"games/{md5}", f"frame_ids/{md5}.npy"):
                (self._out / name).unlink(missing_ok=True)
        return ParseSummary(
            out=str(self._out), parsed=self._parsed, skipped=self._skipped, rejected=len(self._rejected),
            ignored=ignored, games=len(self.entries), frames=sum(map(_count_frames, self.entries.values())),
        )  # fmt: skip

    def _explain_nothing(self) -> str:
        heads = Counter(entry["reason"][:_REASON_HEAD] for entry in self._rejected)
        common, count = heads.most_common(1)[0]
        return (
            f"none of {len(self._rejected)} replays gave a game; {count} of them: {common}. "
            f"Every reason stands in {self._out / 'rejected.json'}."
        )


def _count_frames(entry: dict[str, Any]) -> int:
    found = entry.get("num_frames", entry.get("lastFrame"))
    return found if isinstance(found, int) else 0


def _start(entry: dict[str, Any]) -> str:
    return str(entry.get("start_key") or "")


def _name(entry: dict[str, Any]) -> str:
    return str(entry.get("source") or entry["slp_md5"])
