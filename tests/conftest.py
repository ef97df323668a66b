"""What the tests share: where real games and golden values lie, on a machine that has them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it runs in the background ignore Ctrl-C


def _find_shared() -> Path | None:
    named = os.environ.get("WORLDMODEL_SHARED")
    found = Path(named) if named else Path(__file__).parents[2] / "shared"
    return found if found.is_dir() else None


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder with `data/` (real games) and `golden/` (the users' outputs); skips where it is absent."""
    found = _find_shared()
    if found is None:
        pytest.skip("no shared folder: put it beside the checkout as ../shared or name it in WORLDMODEL_SHARED")
    return found


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes name no test: a gzip header holds the second it was made, and all workers must collect the same names."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `slow`, `browser`, `faults` or `lab` run only where `-m` chooses tests, such as `-m slow`."""
    if not config.option.markexpr:
        for item in items:
            for mark in ("slow", "browser", "faults", "lab"):
                if item.get_closest_marker(mark):
                    item.add_marker(pytest.mark.skip(reason=f"{mark}: run it with -m {mark}"))
