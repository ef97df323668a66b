"""Charts and settings of a grid with axes on its page."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tune.results_at_hand import make_record, make_result
from tune.axis_charts import draw_axes
from tune.results import TrialResult


def make(axes: dict[str, Any], value: float, seed: int = 0) -> TrialResult:
    name = " ".join(map(str, axes.values()))
    result = make_result("a", seed, value)
    record = make_record(name, seed, axes=axes)
    return TrialResult(**{**vars(result), "record": record})


GRID = [
    make({"training.lr": lr, "model.d_model": width, "encoding.targets": "all"}, value)
    for lr, width, value in ((1e-3, 64, 0.1), (1e-3, 128, 0.3), (2e-2, 64, 0.5), (2e-2, 128, 0.7))
]


def test_each_trial_is_a_line_through_its_values() -> None:
    parallel, _ = draw_axes(GRID)
    labels = [note.text for note in parallel.layout.annotations if note.text.startswith("<b>")]
    assert labels == ["<b>lr</b>", "<b>d_model</b>", "<b>position MAE</b>", "<b>change %</b>"]
    assert [tuple(line.y[:3]) for line in parallel.data] == [
        pytest.approx(heights) for heights in ((0, 0, 0), (0, 1, 1 / 3), (1, 0, 2 / 3), (1, 1, 1))
    ]


def test_axes_over_decades_are_logarithmic() -> None:
    parallel, _ = draw_axes([make({"training.lr": lr}, 0.2) for lr in (1e-3, 1e-2, 1e-1)])
    assert [line.y[0] for line in parallel.data] == pytest.approx([0, 0.5, 1])


def test_the_effect_of_an_axis_is_the_mean_over_the_others() -> None:
    _, effects = draw_axes(GRID)
    lines = [trace for trace in effects.data[:4] if trace.name == "mean"]
    means = {line.xaxis: dict(zip(line.x, line.y, strict=True)) for line in lines}
    assert means["x"] == pytest.approx({1e-3: 0.2, 2e-2: 0.6})
    assert means["x2"] == pytest.approx({64: 0.3, 128: 0.5})


def test_words_are_axes_too() -> None:
    parallel, effects = draw_axes([make({"training.schedule": name}, 0.2) for name in ("cosine", "constant")])
    assert {"cosine", "constant"} <= {note.text for note in parallel.layout.annotations}
    assert effects.layout.xaxis.type == "category"


def test_a_grid_without_axes_has_no_such_charts() -> None:
    assert draw_axes([make_result("baseline", 0), make_result("1a", 0)]) == []
    assert draw_axes([make({"training.lr": 1.0}, 0.2)]) == []
