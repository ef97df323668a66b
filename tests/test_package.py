"""What an installed copy carries besides code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_package_has_license_and_types(tmp_path: Path) -> None:
    build = ["-c", "from setuptools import setup; setup()", "-q", "egg_info", "--egg-base", tmp_path]
    subprocess.run([sys.executable, *build, "build_py", "--build-lib", tmp_path / "lib"], cwd=ROOT, check=True)
    assert {p.parent.name for p in tmp_path.glob("lib/*/py.typed")} == {"worldmodel", "tune"}
    facts = (tmp_path / "worldmodel.egg-info" / "PKG-INFO").read_text().splitlines()
    assert {"License-Expression: MIT", "License-File: LICENSE"} <= set(facts)
