"""One run for all tests of this folder."""

from __future__ import annotations

import pytest

from tests.film.rooms import make_run
from worldmodel.storage import Location


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Location:
    """An untrained run with a checkpoint."""
    return make_run(tmp_path_factory.mktemp("film"))
