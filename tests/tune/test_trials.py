"""How many trials run at once, what a cluster must have, and which trials are done."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tune.results_at_hand import make_result, make_trial
from tune.resources import MACHINES, Cluster, check_reach, plan_resources, read_promised
from tune.trials import is_done
from tune.variants import Trial
from worldmodel.errors import UserError
from worldmodel.experiment.config_file import override, to_yaml
from worldmodel.rollout.evaluation import EVALUATION
from worldmodel.run.run import CONFIG, RECORD
from worldmodel.storage import Location

CLUSTERS = st.builds(Cluster, cpus=st.integers(1, 64).map(float), gpus=st.integers(0, 8).map(float))
SHARES = st.integers(1, 20).map(lambda parts: Fraction(1, parts))


@settings(deadline=None)
@given(CLUSTERS, st.integers(1, 8))
def test_workers_and_drivers_of_all_trials_at_once_fit_onto_the_cpus(cluster: Cluster, workers: int) -> None:
    if workers > cluster.cpus:
        with pytest.raises(UserError, match=f"the cluster has {cluster.cpus:g} CPUs"):
            plan_resources(cluster, 0, workers)
        return
    found = plan_resources(cluster, 0, workers)
    drivers = found.driver.get("CPU", 0.0) if workers > 1 else 0.0
    assert found.at_once >= 1
    assert found.at_once * (found.workers * found.cpus_per_worker + drivers) <= cluster.cpus
    assert (found.at_once + 1) * workers > cluster.cpus  # and not fewer than fit


@settings(deadline=None)
@given(CLUSTERS, SHARES)
def test_shares_of_a_gpu_pack_until_it_is_full(cluster: Cluster, share: Fraction) -> None:
    if not cluster.gpus:
        with pytest.raises(UserError, match="the cluster has 0"):
            plan_resources(cluster, float(share), 1)
        return
    found = plan_resources(cluster, float(share), 1)
    assert found.driver == {"CPU": 1, "GPU": float(share)}
    assert found.at_once == min(int(cluster.cpus), int(cluster.gpus / share))


@pytest.mark.parametrize(("share", "at_once"), [(0.1, 10), (0.3, 3), (0.6, 1), (1.0, 1)])
def test_a_share_does_not_lie_on_two_gpus(share: float, at_once: int) -> None:
    assert plan_resources(Cluster(cpus=99, gpus=1), share, 1).at_once == at_once
    assert plan_resources(Cluster(cpus=99, gpus=2), share, 1).at_once == 2 * at_once


@settings(deadline=None)
@given(CLUSTERS, st.integers(1, 8))
def test_trials_of_several_gpus_never_wait_for_each_others(cluster: Cluster, workers: int) -> None:
    if workers > min(cluster.cpus, cluster.gpus):
        with pytest.raises(UserError):
            plan_resources(cluster, 1, workers)
        return
    found = plan_resources(cluster, 1, workers)
    assert found.at_once * workers <= min(cluster.gpus, cluster.cpus)
    assert "GPU" not in found.driver or workers == 1


def test_a_driver_beside_its_workers_takes_no_cpu_from_them() -> None:
    assert plan_resources(Cluster(cpus=2, gpus=0), 0, 2).driver.get("CPU", 0) == 0


@pytest.mark.parametrize(
    ("gpus", "workers", "said"),
    [
        (4, 1, r"asks for 4 GPUs \(1 workers\), the cluster has 2 \(and 8 CPUs\)"),
        (1, 3, r"asks for 3 GPUs \(3 workers\), the cluster has 2"),
        (2, 1, "a worker computes on one GPU"),
        (0.5, 2, "several workers take a whole GPU each"),
        (0, 9, "asks for 9 workers of a CPU each, the cluster has 8 CPUs"),
        (0, 0, "at least 1 worker"),
        (-1, 1, "0 or more GPUs"),
    ],
)
def test_what_can_never_be_had_is_refused_by_what_there_is(gpus: float, workers: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan_resources(Cluster(cpus=8, gpus=2), gpus, workers)


def test_a_line_says_what_runs_at_once() -> None:
    found = plan_resources(Cluster(cpus=8, gpus=1), 0.25, 1)
    assert found.describe(21) == "21 trials, 4 at once, each 1 worker of 1 CPU, 0.25 GPU"
    assert found.describe(1) == "1 trial, 1 at once, each 1 worker of 1 CPU, 0.25 GPU"


def test_a_cluster_that_starts_from_nothing_counts_what_it_may_start(monkeypatch: pytest.MonkeyPatch) -> None:
    head = {"Alive": True, "Resources": {"memory": 1.0}}
    monkeypatch.setattr("ray.nodes", lambda: [head, {"Alive": False, "Resources": {"CPU": 96.0}}])
    monkeypatch.delenv(MACHINES, raising=False)
    assert Cluster.find() == Cluster(cpus=0, gpus=0, machines=1)
    monkeypatch.setenv(MACHINES, '[{"count": 2, "CPU": 96, "GPU": 8}, {"count": 1, "CPU": 8, "GPU": 1}]')
    assert Cluster.find() == Cluster(cpus=200, gpus=17, machines=2, cpus_each=96)
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": {"CPU": 96.0, "GPU": 8.0}}] * 3)
    assert Cluster.find() == Cluster(cpus=288, gpus=24, machines=3, cpus_each=96)


@pytest.mark.parametrize("text", ["two", '{"CPU": 1}', '[{"count": 1}]', "[3]"])
def test_what_may_be_started_is_understood_or_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MACHINES, text)
    with pytest.raises(UserError, match=MACHINES):
        read_promised()


def test_a_folder_of_one_machine_is_no_storage_of_a_cluster_of_several() -> None:
    several = Cluster(cpus=4, gpus=0, machines=2)
    with pytest.raises(UserError, match=r"2 machines and /runs is a folder of one of them.*s3://"):
        check_reach(several, ["s3://bucket/games", "/runs"])
    check_reach(several, ["s3://bucket/games", "s3://bucket/runs"])
    check_reach(Cluster(cpus=4, gpus=0), ["/runs"])


@pytest.fixture
def done(tmp_path: Path) -> tuple[Location, Trial]:
    """A grid's folder with one trial that is done."""
    folder, result = Location.of(tmp_path), make_result("1a", 0)
    config = override(make_trial("1a", 0).config, {"data.dataset_dir": "/blocks"})
    trial = Trial(experiment="1a", seed=0, config=config)
    assert result.record is not None
    result.record.blocks = "/blocks"
    (folder / trial.name / RECORD).write_text(result.record.model_dump_json())
    (folder / trial.name / EVALUATION).write_text(json.dumps(result.evaluation))
    (folder / trial.name / CONFIG).write_text(to_yaml(trial.config))
    return folder, trial


def test_a_trial_is_done_where_it_is_finished_and_evaluated(done: tuple[Location, Trial]) -> None:
    folder, trial = done
    assert is_done(folder, trial)
    assert not is_done(folder, make_trial("1a", 1))
    (folder / trial.name / EVALUATION).delete()
    assert not is_done(folder, trial)


@pytest.mark.parametrize("changes", [{"training.num_epochs": 9}, {"training.max_steps": 9}, {"data.dataset_dir": "/b"}])
def test_a_trial_that_is_asked_for_longer_or_elsewhere_is_not_done(
    done: tuple[Location, Trial], changes: dict[str, object]
) -> None:
    folder, trial = done
    other = Trial(experiment=trial.experiment, seed=trial.seed, config=override(trial.config, changes))
    assert not is_done(folder, other)


def test_another_experiment_under_a_trials_name_is_refused(done: tuple[Location, Trial]) -> None:
    folder, trial = done
    config = override(trial.config, {"training.lr": trial.config.training.lr / 2})
    with pytest.raises(UserError, match=r"cannot be resumed as another experiment.*\n *training.lr"):
        is_done(folder, Trial(experiment=trial.experiment, seed=trial.seed, config=config))
