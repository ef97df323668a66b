"""Answers of a grid in plain sentences: one for each experiment and question, corrected for their number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tune.columns import CHANGE, POSITION, Column
from tune.results import HURDLES, Row, Table, find_side
from worldmodel.statistics import ALPHA, CONFIDENCE, MOST_SEEDS, Statistic

QUESTIONS = (CHANGE, POSITION)
FEW_GAMES = 20
"""Validation games under which a bootstrap says little of other games."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Answer to one question: does an experiment differ from the one it is compared with, in one metric?"""

    metric: str
    outcome: str
    """"better", "worse" or "unclear"."""
    text: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Answers for one experiment."""

    experiment: str
    goal: str
    """The experiment's own question."""
    compared_to: str
    horizon: int
    answers: list[Answer]


def find_verdicts(tables: Sequence[Table]) -> list[Verdict]:
    """A verdict for each experiment that is compared with another."""
    return [
        Verdict(
            experiment=row.experiment, goal=row.goal, compared_to=table.compared_to, horizon=table.horizon,
            answers=[_answer(row, table, column) for column in QUESTIONS if column.metric in row.metrics],
        )
        for table in tables if table.compared_to for row in table.rows if row.experiment != table.compared_to
    ]  # fmt: skip


def find_cautions(tables: Sequence[Table]) -> list[str]:
    """Facts that weaken every answer: few games, coinciding seeds, selection, and how many questions were asked."""
    full = [table for table in tables if not table.stopped_early]
    rows = [row for table in full for row in table.rows]
    found = [remark for row in rows for remark in row.remarks]
    games = {row.metrics[metric].games for row in rows for metric in HURDLES if metric in row.metrics} - {0}
    found += [
        f"{count} validation game{'s' * (count != 1)}: too few to speak for other games, {FEW_GAMES} or more are needed"
        for count in sorted(games) if count < FEW_GAMES
    ]  # fmt: skip
    asked = max((d.questions for row in rows for d in row.difference.values()), default=0)
    if asked > 1:
        found.append(f"corrected for {asked} questions (Holm): the chance of any wrong claim is at most {ALPHA:.0%}")
    return list(dict.fromkeys(found))


def describe_verdicts(tables: Sequence[Table]) -> Iterator[tuple[str, list[str]]]:
    """Experiment with its goal, and its sentences; at last the cautions."""
    for verdict in find_verdicts(tables):
        ahead = "" if verdict.horizon == 1 else f", {verdict.horizon} frames ahead"
        yield f"{verdict.experiment}{ahead}: {verdict.goal or 'no goal was given'}", [a.text for a in verdict.answers]
    if cautions := find_cautions(tables):
        yield "All answers", cautions


def _answer(row: Row, table: Table, column: Column) -> Answer:
    found = row.difference.get(column.metric)
    if found is None or not found.is_shown:
        outcome, text = "unclear", _describe_unclear(row, found, column, table.compared_to)
    else:
        outcome = "better" if (found.mean < 0) == column.is_better_small else "worse"
        verb = "raises" if found.mean > 0 else "lowers"
        size = f"{column.format(abs(found.mean))} ± {column.format(found.total)} {column.unit}"
        other = _name(table.compared_to)
        text = f"{row.experiment} {verb} {column.words} by {size} against {other} ({_cover(found)}): {outcome}"
    more = [_describe_bar(row, table, column.metric), _describe_test(row, column)]
    return Answer(metric=column.metric, outcome=outcome, text="; ".join([text, *(part for part in more if part)]))


def _describe_unclear(row: Row, found: Statistic | None, column: Column, other: str) -> str:
    start = f"{column.words}: no difference of {row.experiment} from {_name(other)} can be shown"
    if row.remarks:
        return f"{start} ({row.remarks[0]})"
    if found is None:
        return f"{start}: no seed in common"
    if found.p is None:
        return f"{start}: {_describe_lack(found)}"
    effect = max(column.worth, abs(found.mean))
    needed = found.count_seeds(effect, ALPHA / max(1, found.questions))
    if needed is None:
        more = f"no number of seeds up to {MOST_SEEDS:,} would detect {column.format(effect)} {column.unit}"
        more += ": use more validation games" if found.games else ""
    else:
        seeds = max(1, needed - found.n)
        more = f"about {seeds} more seed{'s' * (seeds != 1)} would detect {column.format(effect)} {column.unit}"
    difference = f"{column.format_signed(found.mean)} ± {column.format(found.total)}"
    return f"{start} ({difference} {column.unit}, {_cover(found)}); {more}"


def _describe_lack(found: Statistic) -> str:
    if found.games == 1:
        return "one validation game says nothing of others"
    return "one seed has no interval, use three or more" if found.n == 1 else "a seed diverged"


def _describe_bar(row: Row, table: Table, metric: str) -> str:
    """Where the two stand against the row that needs no training."""
    _, bar, sign = HURDLES[metric]
    base = next(other for other in table.rows if other.experiment == table.compared_to)
    sides = [sign * find_side(r.bars[metric]) if metric in r.bars else None for r in (row, base)]
    if None in sides or sides == [1, 1]:
        return ""
    if sides[0] == sides[1]:
        verb = "both are worse than" if sides[0] == -1 else "neither is shown to be better than"
        return f"{verb} the {bar} baseline"
    words = {-1: "is worse than", 0: "is not shown to be better than", 1: "is better than"}
    first, second = (words[side] for side in sides if side is not None)
    return f"{row.experiment} {first} the {bar} baseline, {_name(table.compared_to)} {second} it"


def _describe_test(row: Row, column: Column) -> str:
    found = row.test_difference.get(column.metric)
    if found is None:
        return ""
    half = "" if found.total is None else f" ± {column.format(found.total)}"
    games = f"{found.games} test games" if found.games else "the test games"
    return f"on {games}, on which nothing was chosen: {column.format_signed(found.mean)}{half} {column.unit}"


def _cover(found: Statistic) -> str:
    games = f"{found.games} games" if found.games else "these games alone"
    return f"{CONFIDENCE * 100:.0f} %, {found.n} seeds, {games}"


def _name(other: str) -> str:
    return "the baseline" if other == "baseline" else other
