"""Playing in a real browser, by keys."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import becomes, list_complaints, open_browser, press
from tests.film.rooms import STEP
from worldmodel.play.pads import CONTROLS
from worldmodel.play.world import World, open_world
from worldmodel.storage import Location

pytestmark = pytest.mark.browser
F2, ENTER = "\ue032", "\ue006"


@pytest.fixture(scope="module")
def world(run: Location) -> World:
    return open_world(run, run / STEP)[0]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("played")


@pytest.fixture(scope="module")
def page(run: Location, out: Path) -> Iterator[Any]:
    """The play page of a run, open in a browser."""
    command = [sys.executable, "-m", "worldmodel.cli.main", "play", str(run.local_path()), "--port", "0"]
    server = subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.PIPE, text=True)
    assert server.stderr
    found = re.search(r"http://127\.0\.0\.1:\d+", server.stderr.readline())
    assert found
    try:
        with open_browser() as browser:
            browser.get(found[0])
            time.sleep(1)
            yield browser
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)


def read_state(page: Any) -> dict[str, Any]:
    script = "return {paused: playState.paused, rate: playState.rate, latency: playState.latency, ...playState.frame}"
    state: dict[str, Any] = page.execute_script(script)
    return state


def test_it_waits_for_its_player(page: Any) -> None:
    assert read_state(page)["paused"] and read_state(page)["played"] == 0


def test_it_runs_at_sixty_frames_a_second(page: Any) -> None:
    press(page, " ")
    time.sleep(1)
    before = read_state(page)["played"]
    time.sleep(3)
    state = read_state(page)
    assert 54 * 3 < state["played"] - before < 66 * 3 + 30
    assert state["latency"] < 100


def test_held_keys_are_the_players_pad(page: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    def read_pad() -> tuple[float, float]:
        pad = read_state(page)["pads"][0]
        return pad["main_stick_x"], pad["button_A"]

    ActionChains(page).key_down("d").key_down("j").perform()
    assert becomes(lambda: read_pad() == (1, 1))
    ActionChains(page).key_up("d").key_up("j").perform()
    assert becomes(lambda: read_pad() == (0.5, 0))


def test_a_gamepad_is_the_players_pad(page: Any) -> None:
    pressed = "buttons: Array.from({length: 17}, (_, n) => ({value: n === 7 || n === 0 ? 1 : 0}))"
    page.execute_script(f"navigator.getGamepads = () => [{{axes: [0.1, -1, 1, 0], {pressed}}}]")
    time.sleep(0.3)
    pad = read_state(page)["pads"][0]
    page.execute_script("navigator.getGamepads = () => []")
    assert (pad["main_stick_x"], pad["main_stick_y"], pad["c_stick_x"]) == (0.5, pytest.approx(0.994, abs=0.01), 1)
    assert (pad["shoulder"], pad["button_R"], pad["button_A"], pad["button_B"]) == (1, 1, 1, 0)


def choose_rival(page: Any, value: str) -> None:
    from selenium.webdriver.support.select import Select

    Select(page.find_element("id", "rival")).select_by_value(value)
    assert becomes(lambda: read_state(page)["played"] == 0 and read_state(page)["paused"])


def test_a_second_person_has_keys_of_their_own(page: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    def read_pads() -> tuple[float, float, float]:
        first, second = read_state(page)["pads"]
        return first["main_stick_x"], second["main_stick_x"], second["button_A"]

    choose_rival(page, "person")
    press(page, " ")
    ActionChains(page).key_down("\ue014").key_down("\ue01b").perform()  # right arrow, 1 of the numbers pad
    assert becomes(lambda: read_pads() == (0.5, 1, 1))
    ActionChains(page).key_up("\ue014").key_up("\ue01b").perform()
    assert becomes(lambda: read_pads() == (0.5, 0.5, 0))


def test_another_recording_plays_the_second_player(page: Any, world: World) -> None:
    other = 1
    page.execute_script("document.getElementById('frame').value = 20")  # the recordings of these games are short
    choose_rival(page, str(other))
    row, recorded = page.execute_script("return playState.start.frame"), world.recorded(other)[:, 1]
    shown = "return [playState.frame.played, playState.frame.pads[1]]"
    press(page, " ")
    seen = {}
    assert becomes(lambda: seen.update([page.execute_script(shown)]) or len(seen) > 2)
    press(page, " ")
    for played, pad in seen.items():
        if 0 < played < len(recorded) - row:
            assert [pad[field.name] for field in CONTROLS] == pytest.approx(recorded[row + played].tolist())
    assert any(0 < played < len(recorded) - row for played in seen)


def test_f2_saves_what_was_played(page: Any, out: Path) -> None:
    press(page, F2)
    assert becomes(lambda: "frames saved as" in page.find_element("id", "told").text)
    assert len(list((out / "games").glob("[!.]*"))) == 1


def test_enter_begins_again(page: Any) -> None:
    press(page, ENTER)
    assert becomes(lambda: read_state(page)["played"] == 0 and read_state(page)["paused"])


def test_a_reload_finds_the_session_as_it_was(page: Any) -> None:
    press(page, " ")
    time.sleep(0.5)
    press(page, " ")
    time.sleep(0.2)
    played = read_state(page)["played"]
    page.refresh()
    time.sleep(1)
    assert abs(read_state(page)["played"] - played) <= 1


def test_nothing_failed(page: Any) -> None:
    assert list_complaints(page) == []
