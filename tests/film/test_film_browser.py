"""The film's page in a real browser, driven by keys."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import becomes, list_complaints, open_browser, press
from tests.film.rooms import STEP
from worldmodel.film.film import FilmRequest, make_film
from worldmodel.film.source import ClipOptions
from worldmodel.storage import Location

pytestmark = pytest.mark.browser
LEFT, RIGHT, HOME, END, UP = "\ue012", "\ue014", "\ue011", "\ue010", "\ue013"


@pytest.fixture(scope="module")
def page(run: Location, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The page of three rollouts, open in a browser."""
    out: Path = tmp_path_factory.mktemp("page") / "film.html"
    make_film(run, run / STEP, Location.of(out), FilmRequest(count=3, clips=ClipOptions(frames=40, lead=10)))
    with open_browser() as browser:
        browser.get(out.as_uri())
        yield browser


def read_state(page: Any) -> dict[str, Any]:
    state: dict[str, Any] = page.execute_script("return {...filmState, frame: frame(), frames: clip().frames}")
    return state


def read_pixels(page: Any, canvas: str) -> str:
    pixels: str = page.execute_script(f"return document.getElementById('{canvas}').toDataURL()")
    return pixels


def test_it_plays_at_once_and_space_pauses(page: Any) -> None:
    assert becomes(lambda: read_state(page)["playing"] and read_state(page)["frame"] > 0)
    press(page, " ")
    frame = read_state(page)["frame"]
    time.sleep(0.3)
    assert read_state(page)["frame"] == frame and not read_state(page)["playing"]


def test_keys_step_and_jump_and_the_picture_follows(page: Any) -> None:
    press(page, HOME)
    assert becomes(lambda: read_state(page)["frame"] == 0)
    before = read_pixels(page, "scene")
    press(page, RIGHT, RIGHT, RIGHT)
    assert becomes(lambda: read_state(page)["frame"] == 3)
    press(page, LEFT)
    assert becomes(lambda: read_state(page)["frame"] == 2)
    assert "before the model begins" in page.find_element("id", "time").text
    press(page, END)
    state = read_state(page)
    assert state["frame"] == state["frames"] - 1
    assert becomes(lambda: page.find_element("id", "time").text.startswith("frame 40 of 40"))
    assert becomes(lambda: read_pixels(page, "scene") != before)


def test_numbers_choose_a_rollout(page: Any) -> None:
    press(page, "2")
    assert read_state(page)["clip"] == 1
    press(page, "n")
    assert read_state(page)["clip"] == 2
    press(page, "1")
    assert read_state(page)["clip"] == 0


def test_outline_and_one_picture_are_toggled(page: Any) -> None:
    press(page, END)
    with_outline = read_pixels(page, "scene")
    press(page, "g")
    without = read_pixels(page, "scene")
    press(page, "v")
    assert len({with_outline, without, read_pixels(page, "scene")}) == 3
    press(page, "g", "v")
    assert read_pixels(page, "scene") == with_outline


def test_a_click_on_the_error_goes_to_its_frame(page: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    chart = page.find_element("id", "chart")
    ActionChains(page).move_to_element(chart).click().perform()
    state = read_state(page)
    assert abs(state["frame"] - state["frames"] / 2) < 3


def test_it_is_smooth(page: Any) -> None:
    press(page, HOME, " ")
    time.sleep(3)
    assert read_state(page)["fps"] > 30
    press(page, " ")


def test_nothing_was_fetched_and_nothing_failed(page: Any) -> None:
    assert list_complaints(page) == []
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0
