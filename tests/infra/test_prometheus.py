"""A real Prometheus with our configuration, beside a real Ray in which a run trains."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.watched_run import DEVICE, HOST, PEAK, train_watched
from tests.training.tiny_runs import configure, write_blocks
from worldmodel.experiment.config_file import to_yaml
from worldmodel.run.gauges import GAUGES, PREFIX
from worldmodel.run.run_folder import read_record, request_stop
from worldmodel.storage import Location

pytestmark = [
    pytest.mark.ray,
    pytest.mark.xdist_group("ray"),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus here: apt-get install prometheus"),
]
MONITORING = Path(__file__).parents[2] / "infra/monitoring"
DASHBOARD = MONITORING / "grafana/dashboard.json"
EXPORTED = f"ray_{PREFIX}"
"""How the gauges' names begin in Prometheus."""
NAMED = {"run": "watched", "grid": "some grid", "seed": "5"}
PATIENCE = 60.0
"""Seconds in which the numbers must come."""

Ask = Callable[..., Any]


def find_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(question: Callable[[], Any], what: str) -> Any:
    """The first answer that is not empty."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if answer := question():
                return answer
        except (urllib.error.URLError, ConnectionError):
            pass
        time.sleep(0.2)
    pytest.fail(f"no {what} within {PATIENCE:.0f} s")


@pytest.fixture(scope="module")
def session() -> Iterator[Path]:
    """The session folder of a Ray with a dashboard, which reports every second."""
    import ray

    ray.shutdown()
    ray.init(
        address="local", num_cpus=1, include_dashboard=True, dashboard_port=find_port(), log_to_driver=False,
        _system_config={"metrics_report_interval_ms": 1000},
    )  # fmt: skip
    yield Path(ray._private.worker._global_node.get_session_dir_path())
    ray.shutdown()


@pytest.fixture(scope="module")
def run(session: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Location]:
    """The folder of a run that trains in an actor, without end."""
    import ray

    folder = tmp_path_factory.mktemp("watched")
    config = configure({
        "name": NAMED["run"], "tracking.group": NAMED["grid"], "training.seed": int(NAMED["seed"]),
        "data.dataset_dir": str(write_blocks(folder)), "save_dir": str(folder / "runs"),
        "training.num_epochs": 100_000, "training.log_interval": 20,
    })  # fmt: skip
    environment = {"env_vars": {"WORLDMODEL_PRICE_PER_HOUR": "3600", "PYTHONPATH": str(Path(__file__).parents[2])}}
    task = ray.remote(train_watched).options(runtime_env=environment).remote(to_yaml(config))
    location = Location.of(folder / "runs" / config.name)
    wait_for(lambda: ray.wait([task], timeout=0)[0] or (location / "metrics.jsonl").exists(), "first step")
    if ray.wait([task], timeout=0)[0]:
        ray.get(task)  # raises what ended it so soon
    yield location
    if not ray.wait([task], timeout=0)[0]:
        request_stop(location)
    ray.get(task)


@pytest.fixture(scope="module")
def prometheus(session: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Asks a Prometheus that scrapes that Ray: its own configuration, but for the place of Ray's session."""
    folder, port = tmp_path_factory.mktemp("prometheus"), find_port()
    text = (MONITORING / "prometheus.yml").read_text()
    (path,) = yaml.safe_load(text)["scrape_configs"][0]["file_sd_configs"][0]["files"]
    nodes = wait_for(lambda: list(session.rglob(Path(path).name)), "file of nodes")
    (folder / "prometheus.yml").write_text(text.replace(path, str(nodes[0])).replace(": 5s", ": 1s"))
    command = [
        "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)

    def ask(path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as reply:
            found = json.load(reply)
        assert found["status"] == "success"
        return found["data"]

    yield ask
    process.terminate()
    process.wait(20)


def read_value(ask: Ask, name: str) -> float:
    """The latest value of a gauge."""
    (found,) = wait_for(
        lambda: ask("query", query=f"last_over_time({EXPORTED}{name}[5m])")["result"], f"{EXPORTED}{name}"
    )
    assert {tag: found["metric"][tag] for tag in NAMED} == NAMED
    return float(found["value"][1])


def list_expressions() -> list[str]:
    """The dashboard's expressions, with everything chosen."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel["targets"]]
    return [re.sub(r"\$(grid|run)\b", ".*", text).replace("$__range", "1h") for text in found]


def test_prometheus_accepts_the_configuration() -> None:
    done = subprocess.run(
        ["promtool", "check", "config", str(MONITORING / "prometheus.yml")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_every_expression_of_the_dashboard_finds_a_run_that_trains(run: Location, prometheus: Ask) -> None:
    for text in list_expressions():
        (found,) = wait_for(lambda text=text: prometheus("query", query=text)["result"], text)
        assert found["metric"].items() <= {**NAMED, "metric": configure().training.best_metric}.items()
    for variable in ("grid", "run"):
        assert prometheus(f"label/{variable}/values", **{"match[]": f"{EXPORTED}step"}) == [NAMED[variable]]


def test_prometheus_has_every_gauge_of_a_run_with_its_last_value(run: Location, prometheus: Ask) -> None:
    wait_for(lambda: read_record(run).best, "best checkpoint")
    request_stop(run)
    record = wait_for(lambda: (found := read_record(run)).ended and found, "end of the run")
    wait_for(lambda: read_value(prometheus, "step") == record.step, "last step")
    found = {name: read_value(prometheus, name) for name in GAUGES}
    assert found["best_metric"] == record.best.value
    assert found["loss"] == record.metrics["batch/loss"]
    assert found["epoch"] == pytest.approx(record.metrics["epoch"])
    assert (found["host_share"], found["device_share"]) == (HOST, DEVICE)
    assert found["mfu"] == found["targets_per_second"] / PEAK
    assert (found["gpu_use"], found["gpu_memory_bytes"]) == (0.5, 2.0**31)
    assert found["cost_usd"] == pytest.approx(found["seconds"], rel=1e-6)  # a dollar a second
    assert 0 < found["seconds"] <= record.seconds.total


@pytest.mark.slow
def test_a_series_ends_soon_after_its_run(run: Location, prometheus: Ask) -> None:
    wait_for(lambda: not prometheus("query", query=f"{EXPORTED}step")["result"], "end of the series")
