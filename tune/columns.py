"""What a grid's tables show, in which unit, and the words beside them: the same for every reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tune.results import CONFIDENCE, PUBLISHED, Key, Statistic, Table, TrialResult
from worldmodel.training.game_sums import NO_TELEPORTS, TELEPORT

COMMIT_DIGITS = 8
PUBLISHED_DIGITS = 2
"""Most digits after the point that the users gave."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One metric as it is shown."""

    metric: str
    heading: str
    digits: int
    """After the decimal point."""
    factor: float = 1.0
    """Shown value over the metric's own: 100 for per cent."""
    published: str = ""
    """Field of `Published` with the same metric; empty: it was not published."""
    is_better_small: bool = True
    words: str = ""
    """In a sentence."""
    unit: str = ""
    worth: float = 0.0
    """Smallest difference that is worth knowing."""

    def format(self, value: float | None) -> str:
        """A value of the metric; empty for None."""
        return "" if value is None else f"{value * self.factor:z.{self.digits}f}"

    def format_signed(self, value: float) -> str:
        """A difference, with its sign."""
        return f"{value * self.factor:+z.{self.digits}f}"

    def format_statistic(self, found: Statistic | None) -> str:
        """Mean, and half of its 95 % interval over seeds where there is one."""
        if found is None:
            return ""
        half = "" if found.half_width is None else f" ±{self.format(found.half_width)}"
        return f"{self.format(found.mean)}{half}"

    def format_games(self, found: Statistic | None) -> str:
        """The 95 % interval over games."""
        if found is None or found.low is None:
            return ""
        return f"{self.format(found.low)} to {self.format(found.high)}"

    def format_difference(self, found: Statistic | None) -> str:
        """Signed mean, and half of its 95 % interval over seeds and games."""
        if found is None:
            return ""
        return self.format_signed(found.mean) + ("" if found.total is None else f" ±{self.format(found.total)}")

    def find_published(self, experiment: str) -> float | None:
        """The users' number for an experiment."""
        found = PUBLISHED.get(experiment)
        return getattr(found, self.published) if found and self.published else None

    def format_published(self, experiment: str) -> str:
        """The users' number, with the digits that they gave."""
        found = self.find_published(experiment)
        return "" if found is None else f"{found * self.factor:.{min(self.digits, PUBLISHED_DIGITS)}f}"


POSITION = Column(
    metric="metric/position_mae", heading="position MAE", digits=4, published="position_mae", words="position MAE",
    unit="Melee units", worth=0.002,
)  # fmt: skip
NEAR = Column(metric=NO_TELEPORTS, heading="no teleports", digits=4)
CHANGE = Column(
    metric="metric/action_change_acc_both", heading="change %", digits=1, factor=100, published="action_change_acc",
    is_better_small=False, words="action-change accuracy", unit="points", worth=0.01,
)  # fmt: skip
ACTION = Column(
    metric="metric/action_acc", heading="action %", digits=1, factor=100, published="action_acc", is_better_small=False
)
ENTROPY = Column(metric="metric/action_ce", heading="action CE", digits=4)
"""Ranks the leaderboard: it follows no teleports, and sees every action."""
PREVIOUS = Column(
    metric="metric/action_change_acc_previous", heading="previous %", digits=1, factor=100, is_better_small=False
)
COLUMNS = (POSITION, NEAR, CHANGE, ACTION, ENTROPY, PREVIOUS)

SHORT = {"most frequent next action": "most frequent"}
"""Names of reference rows that are too long for a terminal or a chart."""
ALWAYS_CHANGES = "most frequent next action"


def hide(column: Column, reference: str, text: str) -> str:
    """The cell, empty where it would mislead: a row that predicts a change in every frame has no action accuracy."""
    return "" if reference == ALWAYS_CHANGES and column in (ACTION, ENTROPY) else text


SHORTER = [name for name, found in PUBLISHED.items() if found.epochs == 1]
FOOTNOTES = (
    "Position MAE: mean absolute error of x and y of both players, in Melee units; no teleports: without coordinates "
    f"that move over {TELEPORT:.0f} units, such as respawns. Action CE: cross-entropy of the action; action: share of "
    "right actions; change: the same over targets where the action differs from the last context frame; previous: from "
    "the frame before the target, the same as change but under lookahead. All are over both players.",
    f"± of a mean is half the {CONFIDENCE:.0%} interval over the n seeds (Student's t) on the same games. Games: the "
    f"{CONFIDENCE:.0%} interval over games under the same seeds (bootstrap). ± of a difference covers seeds and games "
    "together, in pairs by seed and by game. One seed has no interval over seeds.",
    "Differences are to the baseline of the same table, or to its first row where there is none. Coloured: shown after "
    "the correction for all questions of the grid (Holm).",
    "Presets, learning rates and rules were chosen on the validation games. Nothing is chosen on the test games: look "
    "at them as seldom as you can. Games are split by file; their formats name no players, so a player can be in all "
    "parts.",
    "Published: the users' Round 1, one run each on 2,000 other games, no seeds, fewer prediction heads: it says which "
    f"way, not how far. * {', '.join(SHORTER)} was published after one epoch, the others after two. Published action "
    "and change accuracies are P1's, from a log that mixes training and validation; change under lookahead is "
    "against the last context frame, two frames before the target.",
    "Rows that predict two frames ahead (lookahead, 3a) are another task: they have baselines of their own and compare "
    "with no one-step row.",
    "Persistence: nothing moves, the action stays. Kinematic: each player goes on at its speed. Most frequent next "
    "action: to what each action most often changes in the training games.",
)  # fmt: skip
"""Sentences that every table needs."""
EARLY_NOTE = "stopped early by the scheduler: not comparable"
ONE_SEED_NOTE = "one seed: no interval"


def title_of(table: Table) -> str:
    """What the rows of a table have in common."""
    return describe_key(table.key)


def describe_key(key: Key) -> str:
    """What comparable rows have in common, in words."""
    is_early, horizon, fingerprint, version, targets, frames = key
    ahead = "one frame ahead" if horizon == 1 else f"{horizon} frames ahead (lookahead)"
    facts = [ahead, f"data {fingerprint}", f"metric version {version}"]
    facts += [f"{frames:,} target frames"] if frames else []
    facts += [f"targets: {targets}"] if targets != "all" else []
    return " | ".join([EARLY_NOTE, *facts] if is_early else facts)


def notes_of(table: Table) -> list[str]:
    """What a reader of one table must know."""
    parts = dict.fromkeys(row.validated for row in table.rows if row.validated)
    found = [f"epochs were {part}; these values are of all" for part in parts]
    if table.stopped_early:
        return found
    found += [ONE_SEED_NOTE] if all(row.trials == 1 for row in table.rows) else []
    found += [f"differences are to {table.compared_to}"] if table.compared_to else []
    return found + list(dict.fromkeys(remark for row in table.rows for remark in row.remarks))


def shorten_commit(commit: str) -> str:
    """The first digits, and whether files differed from it."""
    name, dash, mark = commit.partition("-")
    return name[:COMMIT_DIGITS] + dash + mark


def count_trials(trials: Sequence[TrialResult]) -> str:
    """How many trials a grid has, and how they ended."""
    done, early = (sum(test) for test in ((t.is_finished for t in trials), (t.is_stopped_early for t in trials)))
    failed = sum(bool(trial.failure) for trial in trials)
    parts = [f"{done} of {len(trials)} trials finished"]
    parts += [f"{early} stopped early by the scheduler"] if early else []
    parts += [f"{failed} not finished"] if failed else []
    return ", ".join(parts)
