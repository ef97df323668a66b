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
    [lines] = parallel.data
    found = {part.label: list(part["values"]) for part in lines.dimensions}
    assert found["d_model"] == [64, 128, 64, 128]
    assert found["lr"] == pytest.approx([-3, -3, -1.699, -1.699], abs=1e-3)
    assert found["position MAE"] == [0.1, 0.3, 0.5, 0.7]
    assert "targets" not in found, "an axis with one value shows nothing"


def test_the_effect_of_an_axis_is_the_mean_over_the_others() -> None:
    _, effects = draw_axes(GRID)
    lines = [trace for trace in effects.data[:4] if trace.name == "mean"]
    means = {line.xaxis: dict(zip(line.x, line.y, strict=True)) for line in lines}
    assert means["x"] == pytest.approx({1e-3: 0.2, 2e-2: 0.6})
    assert means["x2"] == pytest.approx({64: 0.3, 128: 0.5})


def test_words_are_axes_too() -> None:
    parallel, effects = draw_axes([make({"training.schedule": name}, 0.2) for name in ("cosine", "constant")])
    assert list(parallel.data[0].dimensions[0].ticktext) == ["cosine", "constant"]
    assert effects.layout.xaxis.type == "category"


def test_a_grid_without_axes_has_no_such_charts() -> None:
    assert draw_axes([make_result("baseline", 0), make_result("1a", 0)]) == []
    assert draw_axes([make({"training.lr": 1.0}, 0.2)]) == []
