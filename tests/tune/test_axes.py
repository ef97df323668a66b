"""Axes of a grid: what they span, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tune.axes import describe_point, draw_points, name_point, read_axes, read_spaces, round_value, span
from worldmodel.errors import UserError


def test_an_axis_has_its_values_as_a_file_would_give_them() -> None:
    found = read_axes(["training.lr=1e-3,2e-3", "data.stage_filter=[1,2],3", "training.amp=true,false"])
    assert found == {
        "training.lr": (1e-3, 2e-3), "data.stage_filter": ([1, 2], 3), "training.amp": (True, False),
    }  # fmt: skip


@given(st.lists(st.integers(1, 3), min_size=0, max_size=3))
def test_the_points_are_all_combinations(sizes: list[int]) -> None:
    axes = {f"k{number}": tuple(range(size)) for number, size in enumerate(sizes)}
    points = span(axes)
    expected = 1
    for size in sizes:
        expected *= size
    assert len(points) == len({repr(point) for point in points}) == expected


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("training.lern_rate=1,2", "training.lern_rate: unknown key (did you mean 'training.lr'"),
        ("lr=1,2", "lr: unknown key"),
        ("training.lr", "there is no '='"),
        ("training.lr=", "found no value"),
        ("training.lr=0.001,2,1e-3", "found 0.001 twice"),
        ("training.lr=1,,2", "is no YAML"),
        ("training.seed=1,2", "use --seeds"),
        ("name=a,b", "the grid's own"),
    ],
)
def test_a_wrong_axis_is_refused_by_name(option: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        read_axes([option])
    assert said in str(refused.value)
    with pytest.raises(UserError, match="found twice"):
        read_axes(["training.lr=1,2", "training.lr=3"])


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("training.lern_rate=uniform(1,2)", "unknown key"),
        ("training.lr=loguniform(0,1)", "a lower end above 0"),
        ("training.lr=loguniform(-1,1)", "a lower end above 0"),
        ("training.lr=uniform(2,1)", "an empty range"),
        ("training.lr=uniform(1,1)", "an empty range"),
        ("training.lr=uniform(1,.inf)", "two finite numbers"),
        ("training.lr=uniform(1)", "with two finite numbers"),
        ("model.d_model=randint(1.5,3)", "two whole numbers"),
        ("model.n_layers=randint(1,100000000000000000000)", "whole numbers of at most"),
        ("training.lr=choice(1)", "two or more different values"),
        ("training.lr=choice(1,1,2)", "two or more different values"),
        ("training.lr=logunifrom(1,2)", "did you mean 'loguniform'"),
        ("training.lr=1,2", "expected one of uniform(...)"),
        ("training.seed=randint(0,9)", "use --seeds"),
    ],
)
def test_a_wrong_space_is_refused_by_name(option: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        read_spaces([option])
    assert said in str(refused.value)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 30), st.integers(0, 9))
def test_draws_are_different_within_bounds_and_repeatable(count: int, seed: int) -> None:
    spaces = read_spaces(["training.lr=loguniform(1e-3,2e-2)", "model.n_layers=randint(1,5)"])
    points = draw_points(spaces, count, seed)
    assert points == draw_points(spaces, count, seed)
    assert len({repr(point) for point in points}) == count
    assert all(1e-3 <= point["training.lr"] <= 2e-2 and 1 <= point["model.n_layers"] < 5 for point in points)
    assert all(type(point["model.n_layers"]) is int for point in points)


def test_more_points_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match="give 3 different points"):
        draw_points(read_spaces(["model.n_layers=randint(1,4)"]), 9)


@settings(deadline=None)
@given(st.floats(1e-6, 1e6))
def test_a_sampled_number_is_what_its_name_shows(value: float) -> None:
    kept = round_value(value)
    assert float(describe_point({"training.lr": kept}).removeprefix("lr=")) == kept
    assert abs(kept - value) <= 1e-3 * value


@pytest.mark.parametrize(
    ("point", "name", "text"),
    [
        ({}, "", ""),
        ({"training.lr": 1e-3, "model.d_model": 128}, "-lr_0.001-d_model_128", "lr=0.001 d_model=128"),
        ({"data.stage_filter": [1, 2]}, "-stage_filter_1_2", "stage_filter=[1, 2]"),
        ({"training.max_steps": None, "training.amp": True}, "-max_steps_null-amp_true", "max_steps=null amp=true"),
    ],
)
def test_names_contain_what_differs(point: dict[str, Any], name: str, text: str) -> None:
    assert (name_point(point), describe_point(point)) == (name, text)
