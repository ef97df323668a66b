"""Encoding: games from any source into blocks, in parallel with Ray Data, each game once.

1. The source is listed; games that the folder already holds (same md5, same size, same schema) are left alone.
2. The others are cut into tasks of many games of one partition (a tar shard is a task of its own).
3. Each task reads its games one by one, packs and verifies them, and writes blocks of about 64 MB. Memory is bounded
   by the blocks under way, not by the number of games.
4. The driver collects what the tasks say; `index.json` is written last, so a folder without it is not a data set.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from worldmodel.blocks.audit import Audit
from worldmodel.blocks.block import PackedGame, build_block, pack_game, read_stored_games
from worldmodel.blocks.index import (
    BlockEntry,
    GameEntry,
    Index,
    entry_from_json,
    has_index,
    partition_of,
    read_index,
    write_index,
    write_rejected,
)  # fmt: skip
from worldmodel.blocks.layout import layout_named
from worldmodel.errors import UserError
from worldmodel.games.game import Game
from worldmodel.games.source import Listing, Reading, Rejection, Unit, list_source, read_games
from worldmodel.ray_session import join_ray
from worldmodel.schema import PLAYERS
from worldmodel.storage import Location

BLOCK_BYTES = 64 << 20
PENDING_BYTES = 192 << 20
"""Bytes of packed games that a task may hold before it writes its largest pending block."""


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """How to encode."""

    max_rejected: float = 0.02
    """Largest share (0 to 1) of games that may be rejected; above it encoding fails and says why."""
    training_only: bool = True
    """Leave out games that meta.json says are not for training."""
    games_per_task: int = 48
    """Loose games read by one task; about a block."""
    cpus: int | None = None
    """CPUs of a local Ray; None: all."""


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What one task wrote and found."""

    games: list[GameEntry] = field(default_factory=list)
    blocks: list[BlockEntry] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    filtered: list[Rejection] = field(default_factory=list)
    audit: Audit = field(default_factory=Audit)

    def to_json(self) -> str:
        """What travels from a worker to the driver."""
        lists = {name: [asdict(x) for x in getattr(self, name)] for name in _LISTS}
        return json.dumps({**lists, "audit": self.audit.counts()})

    @classmethod
    def from_json(cls, text: str) -> TaskResult:
        """The result that `to_json` wrote."""
        found = json.loads(text)
        lists = {name: [kind(x) for x in found[name]] for name, kind in _LISTS.items()}
        return cls(**lists, audit=Audit.from_counts(found["audit"]))


_LISTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "games": entry_from_json,
    "blocks": lambda found: BlockEntry(**found),
    "rejected": lambda found: Rejection(**found),
    "filtered": lambda found: Rejection(**found),
}


@dataclass(frozen=True, kw_only=True)
class EncodeSummary:
    """What `encode` did."""

    index: Index
    rejected: list[Rejection]
    encoded: int
    """Games encoded now; the others were there already."""
    warnings: list[str]


Progress = Callable[[int, int], None]
"""Called with (games done, games in all)."""


def encode(
    source: str, out: str, options: EncodeOptions | None = None, progress: Progress | None = None
) -> EncodeSummary:
    """Encode all games of `source` (local or s3://, gs://) into the folder `out`. UserError where it cannot be done."""
    options = options or EncodeOptions()
    target = Location.of(out)
    listing = list_source(source, training_only=options.training_only)
    known = read_index(target) if has_index(target) else Index(games=[], blocks=[])
    kept, todo = _divide(known, listing)
    results = list(_run(_make_tasks(todo, options), str(target), options, progress))
    audit = _audit_kept(target, known, kept)
    summary = _summarise(kept, results, listing, audit)
    write_rejected(target, summary.rejected)
    _check_share(summary, options.max_rejected, str(source))
    write_index(target, summary.index)
    _delete_unused(target, known, summary.index)
    return summary


def _divide(known: Index, listing: Listing) -> tuple[Index, list[Unit]]:
    """The part of a known index that still serves, and the units to encode.

    A block stays only if all of its games are still wanted: blocks are never edited.
    """
    wanted = {(unit.name, unit.bytes) for unit in listing.units}
    stale = {game.block for game in known.games if _identity(game) not in wanted}
    games = [game for game in known.games if game.block not in stale]
    shards = [s for s in known.shards if (s["name"], s["bytes"]) in wanted]
    spoilt = {str(game.shard) for game in known.games if game.block in stale and game.shard}
    shards = [s for s in shards if s["name"] not in spoilt]
    whole = {str(s["name"]) for s in shards}
    games = [game for game in games if not game.shard or game.shard in whole]
    blocks = {game.block for game in games}
    have = {_identity(game) for game in games} | {(str(s["name"]), s["bytes"]) for s in shards}
    kept = Index(
        games=games, blocks=[b for b in known.blocks if b.name in blocks], shards=shards, audit=known.audit,
        filtered=[f for f in known.filtered if f["file"].split("/")[0] in whole],
    )  # fmt: skip
    return kept, [unit for unit in listing.units if (unit.name, unit.bytes) not in have]


def _identity(game: GameEntry) -> tuple[str, int]:
    return (game.shard or game.md5, game.source_bytes)


def _make_tasks(units: list[Unit], options: EncodeOptions) -> list[list[Unit]]:
    by_partition: dict[int, list[Unit]] = defaultdict(list)
    for unit in units:
        if unit.kind == "parsed":
            by_partition[partition_of(unit.name)].append(unit)
    size = options.games_per_task
    loose = [group[i : i + size] for group in by_partition.values() for i in range(0, len(group), size)]
    return [[unit] for unit in units if unit.kind != "parsed"] + loose


def _run(tasks: list[list[Unit]], out: str, options: EncodeOptions, progress: Progress | None) -> Iterator[TaskResult]:
    """Results of all tasks, in the tasks' order."""
    if not tasks:
        return
    join_ray(options.cpus)
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    for name in ("ray.data", "ray.data._internal.execution.streaming_executor"):
        logging.getLogger(name).setLevel(logging.ERROR)
    rows = [{"number": n, "units": json.dumps([asdict(u) for u in task])} for n, task in enumerate(tasks)]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    total, done, results = sum(len(task) for task in tasks), 0, {}
    for row in dataset.map(EncodeTask(out, options.training_only), num_cpus=1).iter_rows():
        results[row["number"]] = TaskResult.from_json(row["result"])
        done += len(tasks[row["number"]])
        if progress:
            progress(done, total)
    yield from (results[number] for number in sorted(results))


@dataclass(frozen=True)
class EncodeTask:
    """The function that Ray Data maps over tasks."""

    out: str
    training_only: bool

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Encode one task's units."""
        units = [Unit(**unit) for unit in json.loads(row["units"])]
        return {"number": row["number"], "result": self.encode(units).to_json()}

    def encode(self, units: list[Unit]) -> TaskResult:
        """Read, verify and write some units; every game ends in a block, among the filtered or the rejected."""
        writer, audit, seen = _BlockWriter(Location.of(self.out)), Audit(), set()
        rejected: list[Rejection] = []
        filtered: list[Rejection] = []
        for reading in read_games(units, training_only=self.training_only):
            if reading.game is None:
                (filtered if reading.is_filtered else rejected).append(
                    Rejection(file=reading.file, reason=reading.reason)
                )
            elif reading.game.md5 in seen:
                rejected.append(Rejection(file=reading.file, reason=_TWICE))
            else:
                seen.add(reading.game.md5)
                audit.add_game(reading.game)
                writer.add(reading.game, reading)
        writer.close()
        return TaskResult(games=writer.games, blocks=writer.blocks, rejected=rejected, filtered=filtered, audit=audit)


_TWICE = "the same game stands earlier in the source"


class _BlockWriter:
    """Collects packed games by (partition, layout) and writes a block whenever one is full."""

    def __init__(self, out: Location) -> None:
        self.out = out
        self.games: list[GameEntry] = []
        self.blocks: list[BlockEntry] = []
        self._pending: dict[tuple[int, str], list[tuple[PackedGame, GameEntry]]] = defaultdict(list)
        self._bytes: Counter[tuple[int, str]] = Counter()

    def add(self, game: Game, reading: Reading) -> None:
        """Pack a game and keep it until its block is full."""
        packed = pack_game(game)
        key = (partition_of(game.md5), packed.layout)
        self._pending[key].append((packed, _entry_of(game, reading)))
        self._bytes[key] += packed.frames * layout_named(packed.layout).frame_bytes
        if self._bytes[key] >= BLOCK_BYTES:
            self._write(key)
        elif self._bytes.total() > PENDING_BYTES:
            self._write(self._bytes.most_common(1)[0][0])

    def close(self) -> None:
        """Write what is left."""
        for key in sorted(self._pending):
            self._write(key)

    def _write(self, key: tuple[int, str]) -> None:
        pending = self._pending.pop(key)
        del self._bytes[key]
        content = build_block([packed for packed, _ in pending])
        digest = hashlib.sha256(content).hexdigest()
        name, row = f"{digest[:20]}.arrow", 0
        (self.out / name).write_bytes(content)
        for packed, entry in pending:
            self.games.append(replace(entry, block=name, row=row))
            row += packed.frames
        self.blocks.append(
            BlockEntry(
                name=name, layout=key[1], partition=key[0], frames=row, games=len(pending), bytes=len(content),
                sha256=digest,
            )
        )  # fmt: skip


def _entry_of(game: Game, reading: Reading) -> GameEntry:
    end = game.entry.get("game_end_method")
    return GameEntry(
        md5=game.md5,
        frames=game.frames,
        stage=game.stage,
        characters=tuple(int(game.columns[player, "character"][0]) for player in range(PLAYERS)),
        end_method=end if isinstance(end, int) else None,
        block="",
        row=0,
        order=reading.unit.order,
        source=reading.unit.kind,
        source_bytes=reading.unit.bytes,
        shard="" if reading.unit.kind == "parsed" else reading.unit.name,
        repeats=game.repeats,
        missing=tuple(sorted(game.missing)),
        absent=tuple(sorted(game.absent)),
    )


def _audit_kept(target: Location, known: Index, kept: Index) -> Audit:
    """The audit of the games that stay; read from their blocks where some of the known ones go."""
    if len(kept.games) == len(known.games):
        return Audit.from_counts(known.audit.get("counts", {}))  # type: ignore[arg-type]
    audit = Audit()
    for stored in read_stored_games(target, kept.games):
        audit.add_game(stored)
    return audit


def _summarise(kept: Index, results: list[TaskResult], listing: Listing, audit: Audit) -> EncodeSummary:
    games = {game.md5: game for game in kept.games}
    rejected, filtered, blocks = list(listing.rejected), list(listing.filtered), list(kept.blocks)
    for result in results:
        rejected += result.rejected
        filtered += result.filtered
        blocks += result.blocks
        audit.merge(result.audit)
        for game in result.games:
            if game.md5 in games:
                rejected.append(Rejection(file=f"{game.shard}/{game.md5}", reason=_TWICE))
            else:
                games[game.md5] = game
    used = {game.block for game in games.values()}
    index = Index(
        games=sorted(games.values(), key=lambda g: (g.order, g.shard, g.block, g.row)),
        blocks=sorted((b for b in blocks if b.name in used), key=lambda b: (b.partition, b.name)),
        shards=[{"name": u.name, "bytes": u.bytes} for u in listing.units if u.kind != "parsed"],
        filtered=kept.filtered + [asdict(f) for f in filtered],
        audit={**audit.report(), "counts": audit.counts()},
    )
    return EncodeSummary(
        index=index, rejected=rejected, encoded=len(games) - len(kept.games), warnings=audit.warnings()
    )


def _check_share(summary: EncodeSummary, limit: float, source: str) -> None:
    good, bad = len(summary.index.games), len(summary.rejected)
    reasons = Counter(r.reason.split(":")[0][:100] for r in summary.rejected).most_common(3)
    told = "; ".join(f"{count} x {reason}" for reason, count in reasons)
    if not good:
        raise UserError(f"{source}: no game could be encoded ({bad} rejected: {told}); rejected.json has every reason")
    if bad / (good + bad) > limit:
        raise UserError(
            f"{source}: {bad} of {good + bad} games rejected, more than {limit:.0%} ({told}); rejected.json has every "
            "reason. Repair the games, or allow more with --max-rejected"
        )


def _delete_unused(target: Location, before: Index, after: Index) -> None:
    used = {block.name for block in after.blocks}
    for block in before.blocks:
        if block.name not in used:
            (target / block.name).delete()
