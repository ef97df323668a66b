"""All that a storage holds of grids and evaluated runs, in tables of what may be compared, by action cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from tune.columns import ACTION, CHANGE, ENTROPY, POSITION, SHORT, describe_key, hide, shorten_commit
from tune.export import drop_non_finite
from tune.record import GRID, TrialName, read_grid
from tune.results import METRICS, Key, Row, Statistic, TrialResult, key_of, make_tables, read_trial, references_of
from worldmodel.errors import UserError
from worldmodel.run.reporter import format_duration, format_usd
from worldmodel.run.run import EVALUATION, RECORD
from worldmodel.storage import Location, is_plain_name

SHOWN = (ENTROPY, CHANGE, POSITION, ACTION)
LAST = "last"
NOTE = (
    "By action cross-entropy. Equal places: the 95 % intervals over seeds (±) cannot tell them apart; one seed has "
    "none. A checkpoint other than the last was chosen on these validation games, which flatters it."
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One experiment of a grid, or one run that stands alone."""

    place: str
    """Its grid or run folder, relative to the storage."""
    location: str
    """The same as URI."""
    experiment: str
    n: int
    """Trials (seeds) behind it."""
    steps: int
    """Optimizer steps that were evaluated."""
    checkpoint: str
    """"last", or "step N" of an earlier one, which was chosen on these games."""
    metrics: dict[str, Statistic]
    commits: tuple[str, ...]
    seconds: float
    """Mean wall-clock seconds of a trial."""
    cost_usd: float | None
    """Mean dollars of a trial; None: unknown."""
    validated: str = ""
    """As `Row.validated`."""
    rank: int = 0
    """Place on its board; entries whose intervals over seeds cannot tell them apart share one."""


@dataclass(frozen=True, kw_only=True)
class Board:
    """Entries that may be compared, the smallest action cross-entropy first."""

    title: str
    entries: list[Entry]
    references: dict[str, dict[str, float]]
    """Rows that need no training."""


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """A storage's boards."""

    storage: str
    boards: list[Board]
    left_out: list[str]
    """What has no place on a board, and why."""
    unreadable: list[str]
    """Folders that cannot be understood, and why."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return cast(dict[str, Any], drop_non_finite(asdict(self)))


@dataclass(kw_only=True)
class _Collection:
    """What was found so far."""

    storage: Location
    entries: dict[Key, list[Entry]] = field(default_factory=dict)
    references: dict[Key, dict[str, dict[str, float]]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def name(self, location: Location) -> str:
        """A folder as people see it."""
        return location.uri.removeprefix(self.storage.uri).strip("/") or location.name

    def add(self, key: Key, entry: Entry, references: Mapping[str, dict[str, float]]) -> None:
        """Take in an entry."""
        self.entries.setdefault(key, []).append(entry)
        self.references.setdefault(key, dict(references))


def collect(storage: Location) -> Leaderboard:
    """The leaderboard of a storage: its grids, its runs, and the runs in folders of its own.

    Raises:
        UserError: nothing below it was evaluated.
    """
    found = _Collection(storage=storage)
    for folder in _find_folders(storage):
        try:
            _add_grid(folder, found) if (folder / GRID).exists() else _add_runs(folder, found)
        except UserError as error:  # one folder must not cost the others
            found.unreadable.append(f"{found.name(folder)}: {_shorten(str(error))}")
    if not found.entries:
        more = "".join(f"\n  {text}" for text in [*found.left_out, *found.unreadable])
        raise UserError(
            f"nothing to compare in {storage}: looked for grids ({GRID}) and evaluated runs ({EVALUATION}) in it and "
            f"in its folders; run a grid, or evaluate a run with `worldmodel evaluate`{more}"
        )
    boards = [
        Board(title=describe_key(key), entries=_rank(entries), references=found.references[key])
        for key, entries in sorted(found.entries.items())
    ]
    return Leaderboard(storage=str(storage), boards=boards, left_out=found.left_out, unreadable=found.unreadable)


def _find_folders(storage: Location) -> Iterator[Location]:
    if (storage / GRID).exists():
        yield storage
        return
    for entry in storage.list_entries():
        if entry.is_folder and is_plain_name(entry.name):
            yield storage / entry.name


def _rank(entries: list[Entry]) -> list[Entry]:
    """Sorted, with their places."""
    found: list[Entry] = []
    first = None
    for entry in sorted(entries, key=_read_entropy):
        if first is None or _is_apart(first, entry):
            first = replace(entry, rank=len(found) + 1)
        found.append(replace(entry, rank=first.rank))
    return found


def _read_entropy(entry: Entry) -> float:
    mean = entry.metrics[ENTROPY.metric].mean if ENTROPY.metric in entry.metrics else math.nan
    return math.inf if math.isnan(mean) else mean


def _is_apart(one: Entry, other: Entry) -> bool:
    """True if the difference leaves the intervals of both over seeds; one seed has none."""
    pair = [entry.metrics.get(ENTROPY.metric) for entry in (one, other)]
    halves = [found.half_width for found in pair if found is not None and found.half_width is not None]
    return len(halves) == 2 and _read_entropy(other) - _read_entropy(one) > math.hypot(*halves)


def _add_grid(folder: Location, found: _Collection) -> None:
    trials = [read_trial(folder, name) for name in read_grid(folder).trials]
    by_name = {trial.name: trial for trial in trials}
    for table in (table for table in make_tables(trials) if not table.stopped_early):
        for row in table.rows:
            found.add(table.key, _entry_of(row, folder, [by_name[name] for name in row.names], found), table.references)
    for count, what in (
        (sum(trial.is_stopped_early for trial in trials), "were stopped early by the scheduler"),
        (sum(bool(trial.failure) for trial in trials), "did not finish"),
    ):
        if count:
            found.left_out.append(f"{found.name(folder)}: {count} of {len(trials)} trials {what}")


def _entry_of(row: Row, folder: Location, trials: Sequence[TrialResult], found: _Collection) -> Entry:
    commits = dict.fromkeys(trial.record.commit or "" for trial in trials if trial.record)
    return Entry(
        place=found.name(folder), location=str(folder), experiment=row.experiment, n=row.trials, steps=row.steps,
        checkpoint=LAST, metrics=row.metrics, commits=tuple(commit for commit in commits if commit),
        seconds=row.seconds, cost_usd=row.cost_usd, validated=row.validated,
    )  # fmt: skip


def _add_runs(folder: Location, found: _Collection) -> None:
    """The run that a folder is, or those that it holds."""
    if (folder / RECORD).exists():
        _add_run(folder, found)
        return
    for entry in folder.list_entries():
        if entry.is_folder and is_plain_name(entry.name) and (folder / entry.name / RECORD).exists():
            _add_run(folder / entry.name, found)


def _add_run(folder: Location, found: _Collection) -> None:
    """A run that stands alone: its evaluation counts, of whatever checkpoint."""
    trial = read_trial(folder.parent, TrialName(name=folder.name, experiment=folder.name, seed=0))
    record, evaluation = trial.record, trial.evaluation
    if record is None or trial.error:
        found.unreadable.append(f"{found.name(folder)}: {_shorten(trial.error or 'no record')}")
    elif evaluation is None or record.early_stopped:
        why = "was stopped early by the scheduler" if record.early_stopped else "was not evaluated"
        found.left_out.append(f"{found.name(folder)}: {why}")
    else:
        values = evaluation["rows"]["model"]
        entry = Entry(
            place=found.name(folder), location=str(folder), experiment=folder.name, n=1, steps=evaluation["step"],
            checkpoint=LAST if evaluation["step"] == record.step else f"step {evaluation['step']:,}",
            metrics={metric: Statistic.of([values[metric]]) for metric in METRICS if metric in values},
            commits=(record.commit,) if record.commit else (), seconds=record.seconds.total, cost_usd=record.cost_usd,
            validated=record.validated,
        )  # fmt: skip
        found.add(key_of(evaluation), entry, references_of(evaluation))


def _shorten(text: str) -> str:
    return text.splitlines()[0]


def render_leaderboard(found: Mapping[str, Any]) -> Group:
    """For a terminal; `found`: as `Leaderboard.to_json` gives it."""
    parts: list[Any] = []
    for board in found["boards"]:
        parts.append(table := _start_table(board["title"]))
        for entry in board["entries"]:
            table.add_row(str(entry["rank"]), *_cells(entry))
        table.add_section()
        notes = [f"{e['place']}: epochs were {e['validated']}; shown: all" for e in board["entries"] if e["validated"]]
        for name, values in board["references"].items():
            cells = (hide(column, name, column.format(values.get(column.metric))) for column in SHOWN)
            table.add_row("", "", SHORT.get(name, name), *cells, style="dim")
        parts += [*(Text(note, style="dim") for note in dict.fromkeys(notes)), Text()]
    parts.append(Text(NOTE, style="dim"))
    parts += [Text(f"left out: {text}", style="dim") for text in found["left_out"]]
    return Group(*parts, *(Text(f"unreadable: {text}", style="red") for text in found["unreadable"]))


def _start_table(title: str) -> RichTable:
    table = RichTable(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    ends = ("n", "steps", "checkpoint", "time", "cost", "commit")
    for heading in ("", "where", "experiment", *(c.heading for c in SHOWN), *ends):
        is_text = heading in ("where", "experiment", "commit")
        table.add_column(heading, justify="left" if is_text else "right", overflow="fold")
    return table


def _cells(entry: Mapping[str, Any]) -> Iterator[Text]:
    metrics = {name: Statistic(**v) for name, v in entry["metrics"].items() if v["mean"] is not None}
    shown = (column.format_statistic(metrics.get(column.metric)) for column in SHOWN)
    cost = "" if entry["cost_usd"] is None else format_usd(entry["cost_usd"])
    commits = ", ".join(shorten_commit(commit) for commit in entry["commits"])
    counts = (str(entry["n"]), f"{entry['steps']:,}", entry["checkpoint"], format_duration(entry["seconds"]))
    return map(Text, (entry["place"], entry["experiment"], *shown, *counts, cost, commits))
