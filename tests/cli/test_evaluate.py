"""`worldmodel evaluate` and `rollout` show how far they are, and end without a trace when told to."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.rollout.untrained_runs import make_run, write_games
from tests.run.test_reporter import Terminal
from worldmodel.cli.main import main
from worldmodel.progress import showing_progress
from worldmodel.storage import Location

COMMANDS = {
    "evaluate": ["evaluate", "RUN"],
    "suite": ["evaluate", "RUN", "--rollout", "--frames", "20", "--starts", "5"],
    "arrays": ["rollout", "RUN", "--frame", "100", "--out", "OUT/one.npz"],
    "film": ["film", "RUN", "--count", "2", "--frames", "20", "--out", "OUT/film.html", "--video", "gif"],
    "game": ["rollout", "RUN", "--frame", "100", "--out", "OUT/games"],
}
SIGNALS = {signal.SIGTERM: (143, "ended by SIGTERM\n"), signal.SIGINT: (130, "interrupted\n")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Location:
    games = write_games(tmp_path_factory.mktemp("games"))
    return make_run(games, tmp_path_factory.mktemp("runs"), {})[0]


def fill_in(command: str, run: Location, out: Path) -> list[str]:
    return [word.replace("RUN", str(run)).replace("OUT", str(out)) for word in COMMANDS[command]]


def list_files(*folders: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("number", list(SIGNALS))
@pytest.mark.parametrize("command", list(COMMANDS))
def test_a_signal_ends_a_command_and_leaves_nothing(
    run: Location, tmp_path: Path, command: str, number: signal.Signals, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = run.local_path()
    assert folder is not None
    before, after_signal = list_files(folder, tmp_path), []

    @contextmanager
    def ask_to_end() -> Iterator[Callable[[str, int, int], None]]:
        def tell(doing: str, done: int, whole: int) -> None:
            after_signal.append(done)
            if len(after_signal) == 3:
                os.kill(os.getpid(), number)

        yield tell

    for module in ("evaluate", "rollout", "film"):
        monkeypatch.setattr(f"worldmodel.cli.{module}.showing_progress", ask_to_end)
    status, line = SIGNALS[number]
    assert main(fill_in(command, run, tmp_path)) == status
    shown = capfd.readouterr()
    assert shown.out == "" and shown.err.endswith(line) and "Traceback" not in shown.err
    assert len(after_signal) == 3
    assert list_files(folder, tmp_path) == before


@pytest.mark.parametrize("command", list(COMMANDS))
def test_a_terminal_sees_how_far_a_command_is(
    run: Location, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int, int]] = []

    @contextmanager
    def listen() -> Iterator[Callable[[str, int, int], None]]:
        with showing_progress() as show:

            def tell(doing: str, done: int, whole: int) -> None:
                told.append((doing, done, whole))
                show(doing, done, whole)

            yield tell

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", terminal)
    for module in ("evaluate", "rollout", "film"):
        monkeypatch.setattr(f"worldmodel.cli.{module}.showing_progress", listen)
    assert main(fill_in(command, run, tmp_path)) == 0
    stages = dict.fromkeys(doing for doing, _, _ in told)
    for stage in stages:
        (whole,) = {whole for doing, _, whole in told if doing == stage}
        shown = [done for doing, done, _ in told if doing == stage]
        assert shown == sorted(shown) and shown[-1] == whole > 0
    assert re.search(rf"{list(stages)[-1]}.*\d+%.*eta", terminal.getvalue())
