"""A grid's tables: statistics over seeds, differences by seed, and only rows that compare."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rollout.untrained_runs import make_run, write_games
from tests.training.tiny_runs import configure, open_data, write_blocks
from tests.tune.results_at_hand import make_early, make_evaluation, make_failure, make_record, make_result, make_trial
from tune.results import (
    CONFIDENCE,
    METRICS,
    PUBLISHED,
    TRIAL_EVALUATION,
    Statistic,
    TrialResult,
    make_tables,
    read_trial,
)
from tune.trial import evaluate_trial, train_and_evaluate
from tune.variants import ROUND1
from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.rollout.evaluation import EVALUATION, Evaluation
from worldmodel.run.record import State
from worldmodel.run.run import RECORD
from worldmodel.run.stop_request import STOP
from worldmodel.storage import Location

MAE = "metric/position_mae"
NUMBERS = st.floats(-1e3, 1e3)


@settings(deadline=None, max_examples=40)
@given(st.lists(NUMBERS, min_size=2, max_size=9))
def test_a_statistic_is_that_of_the_standard_library_and_scipy(values: list[float]) -> None:
    found = Statistic.of(values)
    assert found.n == len(values)
    assert found.mean == pytest.approx(statistics.fmean(values), abs=1e-9)
    assert found.spread == pytest.approx(statistics.stdev(values), abs=1e-9)
    error = scipy.stats.sem(values)
    if error > 1e-9:
        low, high = scipy.stats.t.interval(CONFIDENCE, len(values) - 1, loc=found.mean, scale=error)
        assert found.half_width == pytest.approx((high - low) / 2, rel=1e-6)


@pytest.mark.parametrize("values", [[math.nan, 1.0], [math.inf, -math.inf], [math.nan]])
def test_a_diverged_seed_is_seen_in_the_mean(values: list[float]) -> None:
    assert math.isnan(Statistic.of(values).mean)


@pytest.mark.parametrize(("n", "t"), [(2, 12.706), (3, 4.303), (4, 3.182), (5, 2.776), (11, 2.228)])
def test_a_statistic_is_that_of_a_printed_table_of_students_t(n: int, t: float) -> None:
    found = Statistic.of([float(value) for value in range(n)])
    assert found.spread == pytest.approx(math.sqrt(n * (n + 1) / 12))
    assert found.half_width == pytest.approx(t * math.sqrt((n + 1) / 12), rel=1e-3)


def test_one_seed_has_neither_spread_nor_interval() -> None:
    assert Statistic.of([0.5]) == Statistic(mean=0.5, spread=None, half_width=None, n=1)


@settings(deadline=None, max_examples=40)
@given(
    st.dictionaries(st.integers(0, 9), NUMBERS, min_size=1),
    st.dictionaries(st.integers(0, 9), NUMBERS, min_size=1),
    st.randoms(use_true_random=False),
)
def test_a_difference_is_of_trials_of_one_seed(base: dict[int, float], other: dict[int, float], dice: object) -> None:
    trials = [make_result("baseline", seed, value) for seed, value in base.items()]
    trials += [make_result("1a", seed, value) for seed, value in other.items()]
    dice.shuffle(trials)  # type: ignore[attr-defined]
    [table] = make_tables(trials)
    rows = {row.experiment: row for row in table.rows}
    assert rows["baseline"].difference == {}
    both = sorted(base.keys() & other.keys())
    if not both:
        assert rows["1a"].difference == {}
        return
    found = rows["1a"].difference[MAE]
    assert found.n == len(both)
    assert found.mean == pytest.approx(np.mean([other[seed] - base[seed] for seed in both]), abs=1e-9)
    assert rows["1a"].metrics[MAE].mean == pytest.approx(np.mean(list(other.values())), abs=1e-9)


def test_a_difference_by_seed_does_not_see_what_the_seeds_have_in_common() -> None:
    trials = [make_result("baseline", seed, 10.0 * seed) for seed in range(3)]
    trials += [make_result("1a", seed, 10.0 * seed - 1) for seed in range(3)]
    [table] = make_tables(trials)
    found = table.rows[1].difference[MAE]
    assert (found.mean, found.half_width) == (-1.0, 0.0)
    assert (table.rows[1].metrics[MAE].half_width or 0) > 10


def test_a_metric_that_the_baseline_lacks_has_no_difference() -> None:
    base = make_result("baseline", 0)
    assert base.evaluation is not None
    del base.evaluation["rows"]["model"][MAE]
    [table] = make_tables([base, make_result("1a", 0)])
    assert MAE in table.rows[1].metrics
    assert table.rows[1].difference.keys() == set(METRICS) - {MAE}


KINDS = st.fixed_dictionaries({
    "horizon": st.sampled_from([1, 2]),
    "data_fingerprint": st.sampled_from(["a" * 16, "b" * 16]),
    "metric_version": st.sampled_from([1, 2]),
    "encoding_targets": st.sampled_from(["all", "published"]),
    "targets": st.sampled_from([900, 901]),
})  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(ROUND1), KINDS, st.booleans()), min_size=1, max_size=12))
def test_rows_share_a_table_where_and_only_where_all_that_they_were_measured_on_is_the_same(
    drawn: list[tuple[str, dict[str, Any], bool]],
) -> None:
    makers = (make_result, make_early)
    trials = [makers[early](name, seed, **kind) for seed, (name, kind, early) in enumerate(drawn)]
    tables = make_tables(trials)
    order = ("horizon", "data_fingerprint", "metric_version", "encoding_targets", "targets")
    kinds = [(early, *(kind[name] for name in order)) for _, kind, early in drawn]
    assert [table.key for table in tables] == sorted(set(kinds))
    for table in tables:
        expected = {trial.name for trial, kind in zip(trials, kinds, strict=True) if kind == table.key}
        assert sorted(name for row in table.rows for name in row.names) == sorted(expected)


@settings(deadline=None, max_examples=30)
@given(st.lists(NUMBERS, min_size=1, max_size=5), st.lists(NUMBERS, min_size=1, max_size=5))
def test_trials_that_were_stopped_early_are_never_averaged(full: list[float], early: list[float]) -> None:
    trials = [make_result("1a", seed, value) for seed, value in enumerate(full)]
    trials += [make_early("1a", len(full) + n, value, step=1 + n) for n, value in enumerate(early)]
    trials += [make_early("baseline", seed) for seed in range(3)]
    found, apart = make_tables(trials)
    assert (found.stopped_early, apart.stopped_early) == (False, True)
    [row] = found.rows
    assert row.metrics[MAE] == Statistic.of(full)
    shown = [(r.names, r.steps, r.metrics[MAE].mean, r.metrics[MAE].n) for r in apart.rows if r.experiment == "1a"]
    assert shown == [((f"1a-seed{len(full) + n}",), 1 + n, value, 1) for n, value in enumerate(early)]
    assert all(row.difference == {} for row in apart.rows)
    assert row.failures == ()


def test_a_trial_stopped_early_without_an_evaluation_is_named() -> None:
    early = make_early("1a", 0)
    bare = replace(early, evaluation=None)
    assert (early.failure, bare.failure) == ("", "stopped early by the scheduler, not evaluated")
    assert (early.is_finished, early.is_stopped_early, bare.is_stopped_early) == (False, True, False)


def test_an_evaluation_from_before_target_sets_is_of_all_targets() -> None:
    older = make_result("1a", 0)
    assert older.evaluation is not None
    del older.evaluation["encoding_targets"]
    [table] = make_tables([older, make_result("baseline", 0)])
    assert (table.encoding_targets, len(table.rows)) == ("all", 2)


@pytest.mark.parametrize("changes", [{"data.split": "md5"}, {"training.train_split": 0.5}, {"data.max_games": 6}])
def test_the_fingerprint_that_keeps_tables_apart_names_the_games_and_their_split(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]
) -> None:
    blocks = tmp_path_factory.getbasetemp() / "split"
    if not blocks.exists():
        write_blocks(blocks)
    one, other = (open_data(configure(c), blocks / "blocks").fingerprint for c in ({}, changes))
    assert one == open_data(configure({"training.lr": 0.5}), blocks / "blocks").fingerprint
    kinds = [make_result("1a", seed, data_fingerprint=name) for seed, name in enumerate((one, other))]
    assert len(make_tables(kinds)) == 2


@pytest.mark.parametrize(("value", "expected"), [(0.49, 1), (0.5, 2), (0.51, 1), (math.nan, 2)])
def test_a_row_is_not_better_unless_its_interval_is(value: float, expected: int) -> None:
    trials = [make_result("1a", seed, value + 1e-4 * seed) for seed in range(2)]
    [table] = make_tables(trials)  # its references are 0.5 everywhere
    wide = make_tables([make_result("1a", seed, value + 0.1 * seed) for seed in range(2)])
    assert len(wide[0].shortfalls) == len(make_tables(trials[:1])[0].shortfalls) == 2
    assert len(table.shortfalls) == expected
    assert all(text.startswith(("1a: position MAE", "1a: change accuracy")) for text in table.shortfalls)


def test_another_horizons_baseline_is_no_baseline() -> None:
    tables = make_tables([make_result("baseline", 0), make_result("3a", 0, horizon=2)])
    assert [table.rows[0].difference for table in tables] == [{}, {}]


def test_what_did_not_finish_counts_only_as_a_failure() -> None:
    finished = [make_result("baseline", 0, 1.0), make_result("baseline", 1, 3.0)]
    failed = make_failure("baseline", 2, "NonFiniteError: loss")
    missing = TrialResult(name="2a-seed0", experiment="2a", seed=0, record=None, evaluation=None)
    [table] = make_tables([*finished, failed, missing])
    [row] = table.rows
    assert (row.trials, row.metrics[MAE].mean, row.seconds, row.cost_usd) == (2, 2.0, 60.0, pytest.approx(0.1))
    assert row.failures == ("failed: NonFiniteError: loss",)
    assert (failed.is_finished, missing.failure) == (False, "not started")


@pytest.mark.parametrize("state", [state for state in State if state is not State.FINISHED])
def test_a_trial_is_finished_only_in_that_state(state: State) -> None:
    values = dict.fromkeys(METRICS, 1.0)
    trial = TrialResult(
        name="1a-seed0", experiment="1a", seed=0, record=make_record("1a", 0, state=state),
        evaluation=make_evaluation(values),
    )  # fmt: skip
    assert not trial.is_finished
    assert trial.failure.startswith(state.value)
    assert make_tables([trial]) == []


def test_an_evaluation_of_an_earlier_step_is_none_of_the_trial() -> None:
    trial = make_result("1a", 0, step=9)
    assert (trial.is_finished, trial.failure) == (False, "not evaluated")


def test_a_run_folder_is_read_back(tmp_path: Path) -> None:
    trial, expected = make_trial("3a-1a-2a", 2), make_result("3a-1a-2a", 2)
    folder = Location.of(tmp_path)
    assert read_trial(folder, trial).failure == "not started"
    assert read_trial(folder, trial, error="no room").failure == "no room"
    assert expected.record is not None
    (folder / trial.name / RECORD).write_text(expected.record.model_dump_json())
    assert read_trial(folder, trial).failure == "not evaluated"
    assert read_trial(folder, trial, error="no room").failure == "not evaluated: no room"
    (folder / trial.name / EVALUATION).write_text(json.dumps(expected.evaluation))
    assert read_trial(folder, trial) == expected


def test_tables_do_not_change_when_somebody_evaluates_a_trial_once_more(tmp_path: Path) -> None:
    own, folder = make_result("1a", 0), Location.of(tmp_path)
    assert own.record is not None and own.evaluation is not None
    (folder / own.name / RECORD).write_text(own.record.model_dump_json())
    (folder / own.name / TRIAL_EVALUATION).write_text(json.dumps(own.evaluation))
    for change in ({"step": 9}, {"data_fingerprint": "other games"}):
        (folder / own.name / EVALUATION).write_text(json.dumps({**own.evaluation, **change}))
        assert read_trial(folder, make_trial("1a", 0)) == own


def test_a_trial_keeps_its_evaluation_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Evaluation(
        run="", checkpoint="", step=10, data_fingerprint="f", metric_version=1, horizon=1, encoding_targets="all",
        games=4, targets=9, rows={"model": {"loss/total": 0.5}}, notes=(), game_names=(), by_game={}, test=None,
    )  # fmt: skip
    monkeypatch.setattr("worldmodel.run.train.train", lambda request, report: make_record("1a", 0))
    monkeypatch.setattr("worldmodel.training.checkpoint_list.find_checkpoint", lambda run, which: run)
    monkeypatch.setattr("worldmodel.rollout.evaluation.evaluate", lambda run, checkpoint, tell: found)
    config = ExperimentConfig(name="1a-seed0", save_dir=str(tmp_path))
    train_and_evaluate(config, {"workers": 1, "share": 1.0})
    (tmp_path / config.name / RECORD).write_text(make_record("1a", 0).model_dump_json())
    trial = read_trial(Location.of(tmp_path), make_trial("1a", 0))
    assert trial.is_finished and trial.values == found.rows["model"]


def test_a_stopped_grid_stops_a_trials_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Location.of(tmp_path)
    run, _ = make_run(write_games(tmp_path / "games"), tmp_path, {})
    monkeypatch.setattr("worldmodel.training.meeting.SECONDS", 0.0)
    found = evaluate_trial(folder, run)
    assert found is not None and found.step == 3
    (run / EVALUATION).delete()
    notice = tmp_path / "notice.json"
    notice.write_text('{"reason": "spot", "deadline": 0}')
    monkeypatch.setenv("WORLDMODEL_NOTICE", str(notice))
    assert evaluate_trial(folder, run) is None
    notice.unlink()
    (folder / STOP).write_text("the budget of the grid is spent\n")
    with pytest.raises(UserError, match="the budget of the grid is spent"):
        evaluate_trial(folder, run)
    assert not (run / EVALUATION).exists()


NO_ROWS = json.dumps(make_evaluation({}) | {"rows": None})
NO_MODEL = json.dumps(make_evaluation({}) | {"rows": {"model": None}})


@pytest.mark.parametrize("content", ['{"name": ', "{}", "[]", '{"step": 10, "rows": {}}', NO_ROWS, NO_MODEL])
@pytest.mark.parametrize("name", [RECORD, EVALUATION])
def test_a_torn_file_costs_one_trial_and_not_the_table(tmp_path: Path, name: str, content: str) -> None:
    expected, folder = make_result("1a", 0), Location.of(tmp_path)
    assert expected.record is not None
    (folder / expected.name / RECORD).write_text(expected.record.model_dump_json())
    (folder / expected.name / EVALUATION).write_text(json.dumps(expected.evaluation))
    (folder / expected.name / name).write_text(content)
    found = read_trial(folder, make_trial("1a", 0))
    assert not found.is_finished
    assert found.failure
    assert make_tables([found, make_result("1a", 1)])[0].rows[0].trials == 1


def test_every_experiment_of_round1_was_published_and_one_after_one_epoch() -> None:
    assert PUBLISHED.keys() == set(ROUND1)
    assert [name for name, found in PUBLISHED.items() if found.epochs == 1] == ["3a-1a-2a"]
