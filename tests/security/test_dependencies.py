"""What is installed is what constraints.txt says, to the version: an audit of that file is one of the machine.

    pip-audit --requirement constraints.txt --no-deps --disable-pip

asks for known holes in exactly these versions; it needs the network, so it is no test.
"""

from __future__ import annotations

import re
import sysconfig
import tomllib
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = {"pip", "setuptools", "wheel"}
"""What an environment has before anything is installed."""

FOLLOWING = {"worldmodel", "triton"}
"""What needs no pin: the project itself, and what torch names to the version where it needs it."""


def simplify(name: str) -> str:
    """A package's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins() -> dict[str, str]:
    """Name to exact version."""
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = [re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!]+)", line) for line in lines if line]
    assert all(pins), [line for line, pin in zip(filter(None, lines), pins, strict=True) if not pin]
    return {simplify(pin[1]): pin[2] for pin in pins if pin}


def test_every_line_pins_one_version_and_no_package_stands_twice() -> None:
    lines = [simplify(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines() if line]
    assert len(lines) == len(set(lines)) == len(read_pins())


def test_every_installed_package_is_pinned_to_its_version() -> None:
    pins, wrong = read_pins(), []
    for found in distributions(path=[sysconfig.get_path(kind) for kind in ("purelib", "platlib")]):
        name = simplify(found.name)
        if name not in TOOLS and name != "worldmodel" and pins.get(name) != found.version.split("+")[0]:
            wrong.append(f"{found.name} {found.version} is installed, constraints.txt has {pins.get(name)}")
    assert not wrong, wrong


def test_every_package_that_the_project_asks_for_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(line for lines in project["optional-dependencies"].values() for line in lines)]
    names = {simplify(re.match(r"[A-Za-z0-9._-]+", line)[0]) for line in asked}  # type: ignore[index]
    assert names - read_pins().keys() - FOLLOWING == set()


def test_our_own_build_takes_the_pinned_setuptools() -> None:
    """pip builds this project in an environment of its own, which no constraint reaches."""
    [build] = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert build == f"setuptools=={read_pins()['setuptools']}"
