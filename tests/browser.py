"""A real browser without a window, for tests of pages; they skip where there is none."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,900")


@contextmanager
def open_browser() -> Iterator[Any]:
    """A selenium driver of Chromium; skips, with the reason, where Chromium or its driver is missing."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    found, driver = next(filter(None, map(shutil.which, NAMES)), None), shutil.which("chromedriver")
    if not found or not driver:
        pytest.skip("no Chromium with chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = found
    for option in OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield browser
    finally:
        browser.quit()


def press(browser: Any, *keys: str) -> None:
    """Press and release keys, one after another."""
    from selenium.webdriver.common.action_chains import ActionChains

    chain = ActionChains(browser)
    for key in keys:
        chain.send_keys(key)
    chain.perform()


def becomes(question: Callable[[], object], seconds: float = 10.0) -> bool:
    """Whether it is so within some seconds: a page draws when the machine lets it."""
    deadline = time.monotonic() + seconds
    while not question():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def list_complaints(browser: Any) -> list[str]:
    """What the page's console says of errors, a refused request among them."""
    return [entry["message"] for entry in browser.get_log("browser") if "favicon" not in entry["message"]]
