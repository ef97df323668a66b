"""The table of faults: each test here says what it made fail and how the run fared; `--write-figures` keeps it.

Figures stand in README.md between two comments, `<!-- NAME -->` and `<!-- end -->`; nothing else is touched.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.figures import HEADER, Row, write_rows
from tests.faults.object_storage import serve_weed
from tests.games_on_disk import encode_toy_games

README = Path(__file__).parent / "README.md"
PROPERTY = "fault"
_rows: list[Row] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option that writes the table."""
    parser.addoption("--write-figures", action="store_true", help="write what the tests of faults found into README.md")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Gathers the rows of tests that passed, also from other processes."""
    if report.when == "call" and report.passed:
        _rows.extend(Row(*json.loads(value)) for name, value in report.user_properties if name == PROPERTY)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Writes the table, in the process that gathered all rows."""
    if session.config.getoption("--write-figures", False) and not hasattr(session.config, "workerinput") and _rows:
        write_rows(README, "faults", HEADER, [[str(cell) for cell in row] for row in sorted(set(_rows))])


Tell = Callable[..., None]


@pytest.fixture
def tell(record_property: Callable[[str, Any], None]) -> Tell:
    """Adds a row: `tell(fault, how it ended, seconds from the fault to that, what was lost, what run.json says)`."""

    def add(fault: str, outcome: str, seconds: float | None, lost: str, says: str) -> None:
        shown = "" if seconds is None else f"{seconds:.0f}"
        record_property(PROPERTY, json.dumps(Row(fault, outcome, shown, lost, says)))

    return add


@pytest.fixture(scope="session")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encoded toy games."""
    return encode_toy_games(tmp_path_factory.mktemp("games"))


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real S3 server."""
    with serve_weed(tmp_path_factory.mktemp("weed") / "data") as url:
        yield url
