"""Encoding: games from any source into blocks, in parallel with Ray Data, each game once.

1. The source is listed; games that the folder already holds, as they are now, are left alone (`kept.py`).
2. The others are cut into tasks of many games of one partition (a tar shard is a task of its own).
3. Each task reads, packs, verifies and writes its games (`task.py`).
4. The driver collects what the tasks say; `index.json` is written last, so a folder without it is not a data set.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from worldmodel.blocks.alarms import check_alarms, check_allowed, note_disputes
from worldmodel.blocks.audit import Audit
from worldmodel.blocks.block import read_stored_games
from worldmodel.blocks.index import (
    INDEX,
    REFUSED,
    GameEntry,
    Index,
    has_index,
    partition_of,
    read_index,
    write_index,
    write_rejected,
)  # fmt: skip
from worldmodel.blocks.kept import describe_shard, divide, find_damaged
from worldmodel.blocks.task import TWICE, EncodeTask, TaskResult
from worldmodel.errors import UserError
from worldmodel.games.output import OnWait, name_places, writing_alone
from worldmodel.games.replay_source import holds_replays, parse_source
from worldmodel.games.source import Listing, Rejection, Unit, list_source
from worldmodel.progress import Tell, say_nothing
from worldmodel.ray_session import join_ray
from worldmodel.storage import Location

STORES = ("AWS_", "AZURE_", "GOOGLE_")
"""How the names of environment variables begin that open an object store; workers on other machines are given them."""
_BLOCK_FILE = re.compile(r"\.?[0-9a-f]{20}\.arrow(\.\w+\.tmp)?")


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """How to encode."""

    max_rejected: float = 0.02
    """Largest share (0 to 1) of games that may be rejected; above it encoding fails and says why."""
    training_only: bool = True
    """Leave out games that meta.json says are not for training."""
    games_per_task: int = 48
    """Loose games read by one task; about a block."""
    allow: tuple[str, ...] = ()
    """Fields whose alarms are known and allowed, see `worldmodel.blocks.alarms`; the index remembers them."""
    read: frozenset[str] = frozenset()
    """Fields that a model will read: alarms of these, where not allowed, refuse the games."""
    cpus: int | None = None
    """CPUs of a local Ray; None: all; 0: this process alone, without Ray."""
    on_wait: OnWait | None = None
    """Told which process is waited for that writes into the same folder on a disk; None: that is a UserError."""

    def __post_init__(self) -> None:
        """UserError where there is no such share or no such field."""
        if not 0 <= self.max_rejected <= 1:  # what is not a number is neither
            raise UserError(f"max_rejected is {self.max_rejected}, expected a share from 0 to 1: 2 % is 0.02")
        check_allowed(self.allow)


@dataclass(frozen=True, kw_only=True)
class EncodeSummary:
    """What `encode` did."""

    index: Index
    rejected: list[Rejection]
    encoded: int
    """Games encoded now; the others were there already."""
    warnings: list[str]


Row = dict[str, Any]


def encode(source: str, out: str, options: EncodeOptions | None = None, tell: Tell = say_nothing) -> EncodeSummary:
    """Encode all games of `source` (local or s3://, gs://) into the folder `out`. UserError where it cannot be done.

    Replays are parsed first, into `out`/parsed. Those that give no game are named, and do not count to the share of
    rejected games: among replays, doubles and short games are no fault.
    """
    options = options or EncodeOptions()
    place, target = name_places(source, out)
    with writing_alone(target, options.on_wait):
        return _encode(place, target, options, tell)


def _encode(place: Location, target: Location, options: EncodeOptions, tell: Tell) -> EncodeSummary:
    source, no_games = str(place), list[Rejection]()
    if holds_replays(place):
        place, no_games = parse_source(place, target, tell)
    listing = list_source(str(place), training_only=options.training_only)
    known = _read_known(target)
    damaged = find_damaged(target, known)
    kept, todo = divide(known, listing, set(damaged))
    results = list(_run(_make_tasks(todo, options), str(target), options, tell))
    audit = _audit_kept(target, known, kept)
    summary = _summarise(kept, results, listing, audit)
    summary.index.audit["allowed"] = sorted({*options.allow, *known.audit.get("allowed", [])})
    write_rejected(target, [*no_games, *summary.rejected])
    _check_share(summary, options.max_rejected, source)
    try:
        check_alarms(summary.index, options.read, options.allow, str(target))
    except UserError:
        write_index(target, summary.index, REFUSED)
        raise
    write_index(target, summary.index)
    (target / REFUSED).delete()
    _delete_unused(target, summary.index)
    told = [f"block {name} was damaged ({reason}): its games were encoded again" for name, reason in damaged.items()]
    return replace(summary, rejected=[*no_games, *summary.rejected], warnings=[*told, *summary.warnings])


def _read_known(target: Location) -> Index:
    """What an earlier encoding has left, refused or not."""
    if not has_index(target):
        return Index(games=[], blocks=[])
    return read_index(target, REFUSED if (target / REFUSED).exists() else INDEX)


def _make_tasks(units: list[Unit], options: EncodeOptions) -> list[list[Unit]]:
    by_partition: dict[int, list[Unit]] = defaultdict(list)
    for unit in units:
        if unit.kind == "parsed":
            by_partition[partition_of(unit.name)].append(unit)
    size = options.games_per_task
    loose = [group[i : i + size] for group in by_partition.values() for i in range(0, len(group), size)]
    return [[unit] for unit in units if unit.kind != "parsed"] + loose


def _run(tasks: list[list[Unit]], out: str, options: EncodeOptions, tell: Tell) -> Iterator[TaskResult]:
    """Results of all tasks, in the tasks' order."""
    rows = [{"number": n, "units": json.dumps([vars(u) for u in task])} for n, task in enumerate(tasks)]
    settings = {name: value for name, value in os.environ.items() if name.startswith(STORES)}
    task = EncodeTask(out, settings)
    total, done, results = sum(len(units) for units in tasks), 0, {}
    tell("encoding games", done, total)
    for row in map(task, rows) if options.cpus == 0 else _map_with_ray(task, rows, options):
        if row["error"]:
            raise UserError(row["error"])
        results[row["number"]] = TaskResult.from_json(row["result"])
        done += len(tasks[row["number"]])
        tell("encoding games", done, total)
    yield from (results[number] for number in sorted(results))


def _map_with_ray(task: EncodeTask, rows: list[Row], options: EncodeOptions) -> Iterator[Row]:
    """`task` of each row, in the order in which they finish."""
    if not rows:
        return
    join_ray(options.cpus)
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    for name in ("ray.data", "ray.data._internal.execution.streaming_executor"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(task, num_cpus=1)
    yield from dataset.iter_rows()


def _audit_kept(target: Location, known: Index, kept: Index) -> Audit:
    """The audit of the games that stay; read from their blocks where some of the known ones go."""
    if len(kept.games) == len(known.games):
        return Audit.from_counts(known.audit.get("counts", {}))
    audit = Audit()
    for stored in read_stored_games(target, kept.games):
        audit.add_game(stored)
    return audit


def _summarise(kept: Index, results: list[TaskResult], listing: Listing, audit: Audit) -> EncodeSummary:
    found, rejected = list(kept.games), [Rejection(**r) for r in kept.rejected]
    filtered, blocks = list(listing.filtered), list(kept.blocks)
    for result in results:
        rejected += result.rejected
        filtered += result.filtered
        blocks += result.blocks
        audit.merge(result.audit)
        found += result.games
    games, twice = _keep_first(found)
    rejected += twice
    shards = [unit for unit in listing.units if unit.kind != "parsed"]
    within = {unit.name for unit in shards}
    used = {game.block for game in games}
    index = Index(
        games=games,
        blocks=sorted((b for b in blocks if b.name in used), key=lambda b: (b.partition, b.name)),
        shards=[describe_shard(unit) for unit in shards],
        filtered=kept.filtered + [asdict(f) for f in filtered],
        rejected=[asdict(r) for r in rejected if r.file.split("/")[0] in within],
        audit={**audit.report(), "counts": audit.counts()},
    )
    cut = [f"{r.file}: {r.reason}; what follows is lost" for r in rejected if r.file in within]
    return EncodeSummary(
        index=index, rejected=listing.rejected + rejected, encoded=len({*games} - {*kept.games}),
        warnings=[*cut, *note_disputes(games), *audit.warnings()],
    )  # fmt: skip


def _keep_first(found: list[GameEntry]) -> tuple[list[GameEntry], list[Rejection]]:
    """Every game where it stands first in the source, in its order, and why the others do not count."""
    games, twice = dict[str, GameEntry](), list[Rejection]()
    for game in sorted(found, key=lambda g: (g.order, g.place)):
        if game.md5 in games:
            twice.append(Rejection(file=f"{game.shard}/{game.md5}", reason=TWICE))
        else:
            games[game.md5] = game
    return list(games.values()), twice


def _check_share(summary: EncodeSummary, limit: float, source: str) -> None:
    good, bad = len(summary.index.games), len(summary.rejected)
    reasons = Counter(r.reason.split(":")[0][:100] for r in summary.rejected).most_common(3)
    told = "; ".join(f"{count} x {reason}" for reason, count in reasons) or "none"
    if not good:
        raise UserError(
            f"{source}: no game could be encoded (rejected: {told}; left out on purpose: "
            f"{len(summary.index.filtered)}). rejected.json has every reason"
        )
    if bad / (good + bad) > limit:
        raise UserError(
            f"{source}: {bad} of {good + bad} games rejected, more than {limit:.0%} ({told}); rejected.json has every "
            f"reason. Repair the games, or allow more: `worldmodel encode {source} BLOCKS --max-rejected SHARE`"
        )


def _delete_unused(target: Location, index: Index) -> None:
    """Remove blocks, and parts of blocks, that an earlier index or an interrupted encoding has left."""
    used = {block.name for block in index.blocks}
    for entry in target.list_entries():
        if entry.name not in used and _BLOCK_FILE.fullmatch(entry.name):
            (target / entry.name).delete()
