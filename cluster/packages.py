"""Whether the Python that runs this has the packages that pyproject.toml asks for, in the versions of constraints.txt.

    python cluster/packages.py [EXTRA ...]

Runs before anything is installed, so it needs the standard library alone. Exit status 0: it has; 1: it has not.
"""

import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def list_missing(extras: list[str]) -> list[str]:
    """Packages that are missing or have another version; `extras`: of pyproject.toml, beside what it always needs."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    names = [re.split(r"[\[<>=!~ ;]", line, maxsplit=1)[0] for line in asked]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==", 1) for line in lines if "==" in line and not line.startswith("#"))
    wanted = {_normalize(name): pin.split()[0] for name, pin in pins.items()}
    return [name for name in names if not _has(name, wanted.get(_normalize(name)))]


def _normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _has(name: str, wanted: str | None) -> bool:
    try:
        found = version(name)
    except PackageNotFoundError:
        return False
    return wanted is None or found.split("+")[0] == wanted.split("+")[0]  # +cu126: which build, not which version


if __name__ == "__main__":
    sys.exit(sys.version_info < (3, 11) or bool(list_missing(sys.argv[1:])))
