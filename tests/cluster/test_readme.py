"""`cluster/README.md` promises nothing that is not there: tests, files, verbs and settings that it names exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cluster.settings import Settings
from tests.cluster.launcher import CLOUDS, CLUSTER, ROOT, read_file

TEXT = (CLUSTER / "README.md").read_text()
FILE = r"(?<!/)(?:cluster|infra|tune)/[\w./-]+\.(?:yaml|py|sh)"
"""How it names a file of ours."""


def find_test_files() -> list[Path]:
    """Files of tests that it names."""
    names = set(re.findall(r"(?:tests/[\w/]+/)?test_\w+\.py", TEXT))
    return sorted({ROOT / name if "/" in name else ROOT / "tests" / "cluster" / name for name in names})


def read_rows(head: str) -> list[list[str]]:
    """The cells of a table's rows, by its first line."""
    lines = TEXT.split(head)[1].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]


def test_every_test_that_holds_a_promise_exists() -> None:
    files = find_test_files()
    assert len(files) > 8 and all(file.is_file() for file in files), [file for file in files if not file.is_file()]
    named = re.findall(r"((?:tests/[\w/]+/)?test_\w+\.py)::(test_\w+)", TEXT)
    assert len(named) >= 20
    for name, test in named:
        path = ROOT / name if "/" in name else ROOT / "tests" / "cluster" / name
        assert re.search(rf"^def {test}\(", path.read_text(), re.MULTILINE), f"{name}::{test}"


def test_every_cloud_fault_has_words_and_a_test() -> None:
    rows = read_rows("| the cloud | you see | test |")
    assert len(rows) >= 15
    assert all(len(cells) == 3 and all(cells) and "::test_" in cells[2] for cells in rows), rows


def test_every_pain_has_something_in_its_place_and_a_test() -> None:
    rows = read_rows("| before | now | held by |")
    assert len(rows) == 6 and all("test_" in held for _, _, held in rows)


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"(?<!/)(?:cluster|infra|tune)/[\w./-]+\.(?:yaml|py|sh)", TEXT)))
)
def test_every_file_that_it_names_exists(path: str) -> None:
    assert (ROOT / path).is_file()


def test_every_verb_that_it_names_exists() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "worldmodel.cli.main", "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    [listed] = re.findall(r"\{([\w,]+)\}", shown.replace("\n", ""))[:1]
    assert set(re.findall(r"worldmodel ([a-z]+) ", TEXT)) <= set(listed.split(","))


def test_its_prices_are_those_that_the_keeper_counts_by() -> None:
    rows = {line.split("|")[1].strip(): line for line in TEXT.splitlines() if line.startswith("| ") and "(" in line}
    for stem, row in zip(CLOUDS, ("AWS", "Google Cloud", "Azure"), strict=True):
        prices = read_file(stem)["metadata"]["dollars_per_hour"].values()
        shown = [float(number) for number in re.findall(r"\|\s*(\d*\.\d+) \(", rows[row])]
        assert shown == [round(price, 2) for price in prices], row


@pytest.mark.parametrize("stem", (*CLOUDS, "own-machines"))
def test_every_setting_is_explained_where_it_is_set(stem: str) -> None:
    assert set(read_file(stem)["metadata"]) <= set(Settings.model_fields)
    text = (CLUSTER / f"{stem}.yaml").read_text()
    block = yaml.safe_load(text)["metadata"]
    for name in block:
        line = next(line for line in text.splitlines() if line.startswith(f"  {name}:"))
        assert "#" in line or name in ("preset", "budget_usd"), line
