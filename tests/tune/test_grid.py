"""The grid's command from end to end: a grid on Ray, its end, its resumption, and what it refuses before it begins."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.games_on_disk import encode_toy_games
from tests.tune.results_at_hand import make_failure, make_result, make_trial
from tune import grid, preparation
from tune.report import CSV, JSON, REPORT
from tune.resources import Cluster
from tune.round1 import main
from tune.trials import SCRATCH
from worldmodel.experiment.config_file import to_yaml
from worldmodel.rollout.evaluation import EVALUATION
from worldmodel.run.record import State
from worldmodel.run.run import RECORD
from worldmodel.run.run_folder import read_config, read_record
from worldmodel.storage import Location

TINY = (
    "model.d_model=32", "model.d_state=8", "model.headdim=16", "model.n_layers=1", "training.sequence_length=64",
    "training.batch_size=16", "training.amp=false", "training.device=cpu", "training.max_steps=2",
    "tracking.wandb=disabled",
)  # fmt: skip


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encoded toy games."""
    return encode_toy_games(tmp_path_factory.mktemp("games"))


def ask(storage: Path, blocks: Path, *more: str) -> list[str]:
    """A grid of two experiments."""
    place = ["--data", str(blocks), "--storage", str(storage), "--name", "grid"]
    return [*place, "--experiments", "baseline", "1a", "--set", *TINY, *more]


@pytest.fixture
def own_ray() -> Iterator[None]:
    """A Ray that is the test's own, and gone after it."""
    import ray

    ray.shutdown()
    yield
    ray.shutdown()


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("own_ray")
def test_a_failed_trial_fails_alone_and_a_resumed_grid_does_only_what_is_missing(
    blocks: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "grid"
    blocked = folder / "1a-seed0" / "checkpoints"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("no folder")
    assert main(ask(tmp_path, blocks, "--resume", "--json")) == 1
    out, said = capfd.readouterr()
    first = json.loads(out)
    assert first == json.loads((folder / JSON).read_text())
    assert not any(word in said for word in ("View detailed results", "Configuration for experiment", "Traceback"))
    good, bad = first["trials"]
    assert (good["finished"], bad["finished"], bad["metrics"]) == (True, False, None)
    assert bad["failure"].startswith("failed: ") and str(blocked) in bad["failure"]
    assert "not finished: 1a-seed0" in said
    assert html.escape(bad["failure"]) in (folder / REPORT).read_text()
    assert [row["experiment"] for table in first["tables"] for row in table["rows"]] == ["baseline"]
    assert [read_record(Location.of(folder / name)).state for name in ("baseline-seed0", "1a-seed0")] == [
        State.FINISHED, State.FAILED,
    ]  # fmt: skip

    before = read_files(folder / "baseline-seed0")
    assert main(ask(tmp_path, blocks)) == 2
    assert "there is a grid in" in capfd.readouterr().err
    blocked.unlink()
    assert main(ask(tmp_path, blocks, "--resume")) == 0
    out, said = capfd.readouterr()
    assert "1 trial, 1 at once" in said
    assert "1 done before" in said
    assert out.startswith("one frame ahead")
    assert "1a" in out
    assert read_files(folder / "baseline-seed0") == before
    second = json.loads((folder / JSON).read_text())
    assert all(trial["finished"] for trial in second["trials"])
    assert second["trials"][0] == good
    assert second["tables"][0]["rows"][0] == first["tables"][0]["rows"][0]
    assert second["tables"][0]["rows"][1]["difference"]["loss/total"]["n"] == 1
    assert (folder / CSV).exists()
    assert read_config(Location.of(folder / "1a-seed0")).encoding.state_age_as_embed

    calls = read_files(folder / "1a-seed0")
    assert main(ask(tmp_path, blocks, "--resume", "--json")) == 0
    assert json.loads(capfd.readouterr().out) == second
    assert read_files(folder / "1a-seed0") == calls


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("own_ray")
def test_a_grid_of_axes_has_tables_that_a_resume_reproduces(
    blocks: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = ["--data", str(blocks), "--storage", str(tmp_path), "--name", "grid", "--skip-doctor", "--json"]
    axes = ["--vary", "training.lr=1e-3,2e-3", "--sample", "training.clip=loguniform(0.5,2)", "--trials", "2"]
    asked = ["baseline", *place, "--set", *TINY, *axes]
    assert grid.main(asked) == 0
    found = json.loads(capfd.readouterr().out)
    assert [len(table["rows"]) for table in found["tables"]] == [4]
    for trial in found["trials"]:
        location = Location.of(tmp_path / "grid" / trial["name"])
        config, record = read_config(location), read_record(location)
        assert {"training.lr": config.training.lr, "training.clip": config.training.clip} == record.axes
        assert (record.origins["training.lr"], record.origins["training.clip"]) == ("--vary", "--sample")
        assert "--vary" in (tmp_path / "grid" / trial["name"] / "card.md").read_text()
    page = (tmp_path / "grid" / REPORT).read_text()
    assert "<h2>Axes</h2>" in page and "<td class=text>--sample</td>" in page
    before = read_files(tmp_path / "grid" / found["trials"][0]["name"])
    assert grid.main([*asked, "--resume"]) == 0
    assert json.loads(capfd.readouterr().out) == found
    assert read_files(tmp_path / "grid" / found["trials"][0]["name"]) == before


def read_files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_grids_that_begin_in_a_new_storage_at_once_both_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = Path.rmdir

    def remove_late(path: Path) -> None:
        (path / "of another grid").mkdir()
        remove(path)

    monkeypatch.setattr(Path, "rmdir", remove_late)
    preparation.check_writable(Location.of(tmp_path / "storage" / "grid"))


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A Ray of two CPUs that is never started; returns the trials that would have run."""
    ran: list[Any] = []
    monkeypatch.setattr(grid, "join_ray", lambda: None)
    monkeypatch.setattr(Cluster, "find", classmethod(lambda cls: cls(cpus=2, gpus=0)))
    monkeypatch.setattr(grid, "run_trials", lambda trials, how: ran.extend(trials) or {})
    return ran


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--experiments", "baseline", "3a-1b"], "unknown experiment '3a-1b' (did you mean '3a-1a'?)"),
        (["--gpus-per-trial", "1"], "asks for 1 GPUs (1 workers), the cluster has 0 (and 2 CPUs)"),
        (["--workers-per-trial", "4"], "asks for 4 workers of a CPU each, the cluster has 2 CPUs"),
        (["--workers-per-trial", "9"], "use 1 to 8"),
        (["--workers-per-trial", "0"], "use 1 to 8"),
        (["--storage", "{tmp}/file"], "choose a folder"),
        (["--data", "{tmp}/empty"], "is empty: expected"),
        (["--data", "{tmp}/absent"], "does not exist"),
        (["--seeds", "0"], "--seeds 0"),
        (["--epochs", "0"], "num_epochs"),
        (["--set", "training.lern_rate=1"], "training.lern_rate: unknown key"),
        (["--set", "training.seed=1"], "use --seeds"),
        (["--set", "training.lr"], "expected a key and its value"),
        (["--scale", "laptob"], "did you mean 'laptop'"),
        (["--vary", "training.lern_rate=1,2"], "training.lern_rate: unknown key"),
        (["--vary", "training.lr="], "found no value"),
        (["--vary", "model.headdim=64,100"], "does not divide the inner width"),
        (["--sample", "training.lr=uniform(2,1)"], "an empty range"),
        (["--sample", "training.lr=loguniform(0,1)"], "a lower end above 0"),
        (["--sample", "training.lr=uniform(1,2)"], "expected both"),
        (["--experiments", "{tmp}/circle.yaml"], "in a circle"),
        (["--experiments", "{tmp}/lost.yaml"], "no such experiment file"),
        (["--seeds", "30"], "210 trials are more than 200"),
        (["--set", "encoding.state_age_as_embed=true"], "would train the same thing"),
        (["--budget-usd", "0"], "--budget-usd 0: expected a number above 0"),
        (["--budget-hours", "-1"], "--budget-hours -1: expected a number above 0"),
        (["--budget-usd", "5"], "the price is unknown"),
        (["--scheduler", "asha", "--epochs", "1"], "the trials have 1"),
    ],
)
def test_a_request_that_cannot_be_carried_out_is_refused_before_anything_is_spent(
    no_ray: list[Any], blocks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "circle.yaml").write_text("extends: circle.yaml")
    (tmp_path / "lost.yaml").write_text("extends: absent.yaml")
    given = {"--data": str(blocks), "--storage": str(tmp_path / "runs")}
    given |= {options[0]: options[1].format(tmp=tmp_path)} if len(options) == 2 else {}
    more = options if len(options) > 2 else []
    assert main([*(word for pair in given.items() for word in pair), *more]) == 2
    out, error = capsys.readouterr()
    assert said in error
    assert "Traceback" not in error
    assert out == ""
    assert no_ray == []
    assert not list((tmp_path / "runs").rglob(RECORD))


def test_a_folder_of_one_machine_is_refused_on_a_cluster_of_several(
    no_ray: list[Any], blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Cluster, "find", classmethod(lambda cls: cls(cpus=2, gpus=0, machines=3)))
    assert main(ask(tmp_path, blocks)) == 2
    assert f"3 machines and {tmp_path} is a folder of one of them" in capsys.readouterr().err
    assert no_ray == []


@pytest.mark.parametrize("left", [JSON, f"baseline-seed0/{RECORD}", f"{SCRATCH}/state"])
def test_what_any_earlier_grid_left_is_not_touched_without_resume(
    no_ray: list[Any], blocks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], left: str
) -> None:
    path = tmp_path / "grid" / left
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    assert main(ask(tmp_path, blocks)) == 2
    assert "go on with it by --resume" in capsys.readouterr().err
    assert read_files(tmp_path / "grid") == {path: b"{}"}
    assert no_ray == []


def test_trials_that_asked_for_a_gpu_never_train_on_a_cpu_and_an_idle_gpu_is_named(
    no_ray: list[Any], blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Cluster, "find", classmethod(lambda cls: cls(cpus=8, gpus=2)))
    given = ["--data", str(blocks), "--storage", str(tmp_path), "--skip-doctor"]  # it would miss the GPUs
    assert main([*given, "--name", "a", "--gpus-per-trial", "0.5"]) == 1
    assert {trial.config.training.device for trial in no_ray} == {"cuda"}
    assert "4 at once, each 1 worker of 1 CPU, 0.5 GPU" in (said := capsys.readouterr().err)
    assert "trials will use none" not in said
    no_ray.clear()
    assert main([*given, "--name", "b"]) == 1
    assert {trial.config.training.device for trial in no_ray} == {"auto"}
    assert "the cluster has 2 GPUs, and trials will use none" in capsys.readouterr().err


def test_a_dry_run_names_the_trials_and_leaves_nothing(
    no_ray: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--storage", str(tmp_path / "runs"), "--seeds", "2", "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "14 trials, 2 at once, each 1 worker of 1 CPU" in said
    lines = {line.split()[0]: line for line in said.splitlines() if line.startswith("  ")}
    assert len(lines) == 14
    assert "encoding.press_events=true encoding.lookahead=1" in lines["3a-1a-2a-seed1"]
    assert "published numbers are of another setting" in said
    assert list(tmp_path.iterdir()) == []
    assert no_ray == []


def test_a_grid_whose_trials_did_not_start_says_so_and_has_a_report(
    no_ray: list[Any], blocks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(ask(tmp_path, blocks)) == 1
    assert [trial.name for trial in no_ray] == ["baseline-seed0", "1a-seed0"]
    assert "1a-seed0: not started" in capsys.readouterr().out
    assert "not started" in (tmp_path / "grid" / REPORT).read_text()
    assert not (tmp_path / "grid" / "1a-seed0" / EVALUATION).exists()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("own_ray")
def test_a_scheduler_ends_what_promises_least_and_its_numbers_stand_apart(
    blocks: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    size = [setting for setting in TINY if "max_steps" not in setting]
    epochs = ["--scheduler", "asha", "--set", *size, "training.num_epochs=40", "training.log_interval=1"]
    rates = ["--vary", "training.lr=3e-3,1e-7"]  # the last trial to begin learns nothing
    asked = [*ask(tmp_path, blocks)[:6], "--experiments", "baseline", "1a", *rates, "--json", *epochs]
    assert main(asked) == 0
    found = json.loads(capfd.readouterr().out)
    records = {t["name"]: read_record(Location.of(tmp_path / "grid" / t["name"])) for t in found["trials"]}
    early = {name for name, record in records.items() if record.early_stopped}
    assert early
    assert early != set(records)
    for name, record in records.items():
        assert (record.state is State.STOPPED) == (name in early)
        assert (record.step < (record.total_steps or 0)) == (name in early)
        assert record.checkpoint
    apart = [table["stopped_early"] for table in found["tables"] for row in table["rows"] for _ in row["names"]]
    assert (apart.count(True), apart.count(False)) == (len(early), len(records) - len(early))
    before = {name: read_files(tmp_path / "grid" / name) for name in records}
    assert main([*asked, "--resume"]) == 0
    assert {name: read_files(tmp_path / "grid" / name) for name in records} == before
    assert json.loads(capfd.readouterr().out) == found


@pytest.mark.parametrize("name", ["../x", "a/b", "", "a b", ".hidden"])
def test_a_name_is_no_path(no_ray: list[Any], blocks: Path, tmp_path: Path, name: str) -> None:
    assert main(["--data", str(blocks), "--storage", str(tmp_path / "runs"), "--name", name]) == 2
    assert not (tmp_path / "runs").exists()
    assert no_ray == []


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--storage", "{tmp}/file/x"), ("--data", "{tmp}/file"), ("--data", "{tmp}/absent"),
        ("--gpus-per-trial", "nan"), ("--gpus-per-trial", "inf"),
    ],
)  # fmt: skip
def test_a_refused_request_leaves_nothing_behind_and_a_dry_run_refuses_the_same(
    no_ray: list[Any], blocks: Path, tmp_path: Path, option: str, value: str, more: tuple[str, ...]
) -> None:
    (tmp_path / "file").write_text("")
    given = {"--data": str(blocks), "--storage": str(tmp_path / "runs"), option: value.format(tmp=tmp_path)}
    assert main([*(word for pair in given.items() for word in pair), *more]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert no_ray == []


def test_what_did_not_finish_is_told_the_grids_own_command_to_go_on(tmp_path: Path) -> None:
    folder = Location.of(tmp_path)
    trials = [make_result("baseline", 0), make_failure("1a", 0, "budget reached")]
    for trial in trials:
        assert trial.record is not None
        (folder / trial.name / RECORD).write_text(trial.record.model_dump_json())
        (folder / trial.name / "config.yaml").write_text(to_yaml(make_trial(trial.experiment, 0).config))
    grid.pass_on(folder, trials, "round1.py --resume --budget-usd 9")
    assert read_record(folder / "1a-seed0").resume_command.endswith("--budget-usd 9")
    assert "--budget-usd 9" in (folder / "1a-seed0" / "card.md").read_text()
    assert "--budget-usd 9" not in read_record(folder / "baseline-seed0").resume_command
