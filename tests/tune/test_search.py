"""A search by results: which points it tries, and what it knows of earlier ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tune.results_at_hand import make_record
from tune.axes import read_spaces
from tune.search import Search, make_searcher
from tune.trial import POINT, VALUE, config_of
from tune.variants import GridPlan, make_trials
from worldmodel.errors import UserError
from worldmodel.experiment.config_file import to_yaml
from worldmodel.run.run import RECORD
from worldmodel.storage import Location


def make_search(*spaces: str, count: int = 5) -> Search:
    [base] = make_trials(GridPlan(experiments=["baseline"]))
    return Search(base=base, spaces=read_spaces(spaces), count=count)


def test_each_point_is_one_trial_that_the_grid_hears_of() -> None:
    heard: list[str] = []
    search = make_search("training.lr=loguniform(1e-3,2e-2)")
    search.hear = lambda trial: heard.append(trial.name)
    first = search.add({"training.lr": 0.00512345})
    assert search.add({"training.lr": 0.00512345}) is first
    assert search.add({"training.lr": 0.01}).name == "baseline-lr_0.01-seed0"
    assert heard == ["baseline-lr_0.005123-seed0", "baseline-lr_0.01-seed0"] == [t.name for t in search.trials]


@pytest.mark.parametrize("space", ["training.lr=uniform(-0.001,1)", "model.headdim=choice(64,100)"])
def test_a_range_that_leaves_what_can_be_trained_is_refused_at_once(space: str) -> None:
    plan = GridPlan(experiments=["baseline"], spaces=read_spaces([space]), trials=1, is_adaptive=True)
    with pytest.raises(UserError, match=r"lr: found -|headdim 100 does not divide"):
        make_trials(plan)
    fine = read_spaces(["training.lr=uniform(0,1)", "model.dropout=uniform(0,1)", "model.n_layers=randint(1,3)"])
    assert make_trials(GridPlan(experiments=["baseline"], spaces=fine, trials=1, is_adaptive=True))


def test_a_worker_trains_what_the_grid_named() -> None:
    search = make_search("training.lr=loguniform(1e-3,2e-2)", "model.n_layers=randint(1,4)")
    point = {"training.lr": 0.00512345, "model.n_layers": 2}
    settings: dict[str, Any] = {"trial": {"config": to_yaml(search.base.config)}, POINT: point}
    assert config_of(settings) == search.add(point).config


def test_suggestions_are_different_and_end_with_the_space(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    searcher = make_searcher(make_search("model.n_layers=randint(1,4)"), Location.of(tmp_path), [])
    found = []
    for number in range(3):
        found.append(searcher.suggest(f"t{number}")[POINT]["model.n_layers"])
        searcher.on_trial_complete(f"t{number}", {VALUE: 1.0})
    assert sorted(found) == [1, 2, 3]
    assert searcher.suggest("t3") == "FINISHED"


def test_a_resumed_search_begins_with_what_is_unfinished_and_knows_the_rest(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    search = make_search("model.n_layers=randint(1,4)")
    done, open_ = (search.add({"model.n_layers": layers}) for layers in (1, 3))
    record = make_record("baseline", 0, metrics={done.config.training.best_metric: 0.5})
    (Location.of(tmp_path) / done.name / RECORD).write_text(record.model_dump_json())
    searcher = make_searcher(search, Location.of(tmp_path), [open_])
    found = [searcher.suggest(f"t{number}")[POINT]["model.n_layers"] for number in range(2)]
    assert found == [3, 2]
