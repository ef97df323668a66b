"""When a loss or its gradient is no number: at which step, in which games and fields."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from worldmodel.encoding import FeatureLayout
from worldmodel.features.plan import Samples
from worldmodel.schema import PLAYERS
from worldmodel.training.feed import Batch, Feed
from worldmodel.training.workers import Workers

SHOWN = 3
"""Most games that a message names."""


class NonFiniteError(RuntimeError):
    """The loss is no longer a number; the last good checkpoint stays."""


def explain_non_finite(feed: Feed, workers: Workers, batches: Sequence[Batch], step: int, terms: Sequence[str]) -> str:
    """What was no number, and where it came from. All workers call it together.

    Args:
        feed: the training feed.
        workers: this worker among all.
        batches: this worker's parts of the step's batch, made again.
        step: the first bad step, from 0.
        terms: names of what was not finite at that step.
    """
    games = np.unique(feed.plan.global_batch(step).games)
    fields, by_game = _count(feed, batches, feed.parts_of(step), games)
    counts = workers.sum(torch.tensor([*fields.values(), *by_game], dtype=torch.float64, device=workers.device))
    bad_fields = [name for name, count in zip(fields, counts[: len(fields)].tolist(), strict=True) if count]
    bad_games = games[(counts[len(fields) :] > 0).cpu().numpy()]
    head = f"the loss or its gradient is no number at step {step + 1} (not finite: {', '.join(terms)}); "
    if bad_fields:
        names = _name_games(feed, bad_games)
        return (
            f"{head}its data hold values that are no numbers in {', '.join(bad_fields)}, in game {names}. The last "
            "good checkpoint stays: leave these games out, or mend them and encode again"
        )
    predicted = [name for term in terms for name in _name_targets(feed.view.layout, term)]
    of = f", which predict {', '.join(dict.fromkeys(predicted))}" if predicted else ""
    return (
        f"{head}all values of that batch are numbers, so the model diverged in {', '.join(terms)}{of}; the batch is of "
        f"games {_name_games(feed, games)}. The last good checkpoint stays: lower training.lr, or look at the ranges "
        "in the encode audit"
    )


def name_columns(layout: FeatureLayout) -> list[str]:
    """What each column of `Inputs.floats` is: "P1 percent", ..."""
    items = ["nearest item x", "nearest item y", "items"] if layout.config.projectiles else []
    each = [field.name for field in layout.continuous] + items
    each += [field.name for field in layout.flags for _ in range(field.bits)]
    each += [field.name for field in layout.controls]
    return [f"P{player + 1} {name}" for player in range(PLAYERS) for name in each]


def _count(
    feed: Feed, batches: Sequence[Batch], samples: Sequence[Samples], games: np.ndarray
) -> tuple[dict[str, float], np.ndarray]:
    """Values that are no numbers, by the field they stand in, and by game of `games`."""
    names = dict.fromkeys(name for name, _ in _list_values(feed.view.layout, batches[0]))
    fields, by_game = dict.fromkeys(names, 0.0), np.zeros(len(games))
    for batch, part in zip(batches, samples, strict=True):
        for name, values in _list_values(feed.view.layout, batch):
            bad = (~torch.isfinite(values)).flatten(1).sum(1).double().cpu().numpy()[: len(part)]
            fields[name] += float(bad.sum())
            np.add.at(by_game, np.searchsorted(games, part.games), bad)
    return fields, by_game


def _list_values(layout: FeatureLayout, batch: Batch) -> Iterator[tuple[str, Tensor]]:
    """Field name to its values (B, ...) among inputs, then among targets."""
    for place, name in enumerate(name_columns(layout)):
        yield name, batch.inputs.floats[..., place]
    yield "controls of the predicted frame", batch.inputs.controls
    for term, values in batch.targets.numbers.items():
        for place, name in enumerate(_name_numbers(layout, term)):
            for player in range(PLAYERS):
                yield f"P{player + 1} {name}", values[..., player, place]


def _name_numbers(layout: FeatureLayout, term: str) -> list[str]:
    return [field.name for field in layout.number_targets[term] for _ in range(field.bits)]


def _name_targets(layout: FeatureLayout, term: str) -> list[str]:
    """The fields that a loss term is about; none for the loss as a whole and for the gradient."""
    if term in layout.class_targets:
        return [layout.class_targets[term].name]
    return [field.name for field in layout.number_targets.get(term, ())]


def _name_games(feed: Feed, games: np.ndarray) -> str:
    names = sorted({feed.plan.games[game].md5 for game in games})
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def find_bad(values: Mapping[str, float]) -> list[str]:
    """Names whose value is no number."""
    return [name for name, value in values.items() if not math.isfinite(value)]
