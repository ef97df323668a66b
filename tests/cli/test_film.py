"""`worldmodel film` and `worldmodel play` on the command line."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.film.rooms import make_run
from tune.record import GRID, GridRecord, TrialName
from tune.report import REPORT, write_report
from tune.results import read_trial
from worldmodel.cli.main import main
from worldmodel.run.record import State
from worldmodel.storage import Location


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Location:
    """An untrained run with a checkpoint."""
    return make_run(tmp_path_factory.mktemp("film"))


def film(run: Location, *options: str) -> int:
    frames = () if "--frames" in options else ("--frames", "12")
    return main(["film", str(run.local_path()), *frames, *options])


def test_the_page_is_in_the_runs_folder(run: Location, capsys: pytest.CaptureFixture[str]) -> None:
    assert film(run, "--count", "2", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    page = run.local_path() / "film.html"  # type: ignore[operator]
    assert page.exists() and str(page) in result["page"]
    assert len(result["clips"]) == 2 and result["video"] == "" and result["report"] == ""


def test_the_report_of_the_runs_grid_links_to_its_film(run: Location, capsys: pytest.CaptureFixture[str]) -> None:
    grid, trial = run.parent, TrialName(name=run.name, experiment="untrained", seed=0)
    record = GridRecord(name="grid", state=State.FINISHED, trials=[trial])
    (grid / GRID).write_text(record.model_dump_json())
    write_report(grid, [read_trial(grid, trial)])
    assert film(run, "--count", "1") == 0
    assert f'href="./{run.name}/film.html">film</a>' in (grid / REPORT).read_text()
    assert REPORT in capsys.readouterr().out
    for name in (GRID, REPORT):
        (grid / name).delete()


def test_a_game_that_ends_early_is_filmed_to_its_end_and_the_page_says_so(
    run: Location, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "short.html"
    assert film(run, "--count", "1", "--json", "--out", str(out)) == 0
    md5 = re.findall(r"game ([0-9a-f]{8})", json.loads(capsys.readouterr().out)["clips"][0])[0]
    assert film(run, "--game", md5, "--frame", "85", "--frames", "500", "--out", str(out)) == 0
    note = re.search(rf"game {md5} ends \d+ frames after the start: 500 were asked for", capsys.readouterr().out)
    assert note and note[0] in out.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--game", "f00", "--frame", "20"], "no validation games begin with 'f00'"),
        (["--checkpoint", "77"], "has no checkpoint '77'"),
        (["--count", "0"], "expected at least 1"),
        (["--frames", "0"], "expected at least 1"),
        (["--video", "gif", "--width", "5"], "expected 160 to 3840 pixels"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_in_one_line(
    run: Location, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "no.html"
    assert film(run, *options, "--out", str(out)) == 2
    told = capsys.readouterr().err.strip()
    assert message in told and told.startswith("error: ") and "\n" not in told
    assert not out.exists()


def test_a_start_beyond_the_games_end_is_refused(run: Location, capsys: pytest.CaptureFixture[str]) -> None:
    assert film(run, "--count", "1", "--json") == 0
    md5 = re.findall(r"game ([0-9a-f]{8})", json.loads(capsys.readouterr().out)["clips"][0])[0]
    assert film(run, "--game", md5, "--frame", "9999") == 2
    assert "cannot start at frame 9999: the game has frames 0 to" in capsys.readouterr().err


def test_a_video_that_fails_is_status_1_and_the_page_is_there(
    run: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/bin/false")
    assert film(run, "--count", "1", "--video", "gif", "--out", str(tmp_path / "film.html")) == 1
    assert "no video: ffmpeg failed" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["film.html"]


@pytest.mark.parametrize("verb", [["film"], ["play", "--port", "0"]])
def test_a_run_without_a_checkpoint_is_refused(
    tmp_path: Path, verb: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, has_checkpoint=False)
    assert main([verb[0], str(run.local_path()), *verb[1:]]) == 2
    assert "has no checkpoint 'newest'" in capsys.readouterr().err


def test_a_port_in_use_is_refused(run: Location, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["play", str(run.local_path()), "--port", str(port)]) == 2
    assert f"port {port} cannot be used" in capsys.readouterr().err


@pytest.mark.slow
def test_play_serves_its_page_until_ctrl_c(run: Location, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "worldmodel.cli.main", "play", str(run.local_path()), "--port", "0", "--json"]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr and process.stdout
    said = next(line for line in process.stderr if "http://" in line)
    found = re.search(r"http://127\.0\.0\.1:\d+", said)
    assert found
    with urllib.request.urlopen(found[0]) as answer:
        assert b"<canvas" in answer.read()
    process.send_signal(signal.SIGINT)
    result = json.loads(process.communicate(timeout=30)[0])
    assert (process.returncode, result["frames"], result["saved"]) == (0, 0, [])
