"""Check and measure the GPU of this machine: `python -m tests.gpu.check [--out FOLDER] [--only PART ...]`.

Each part runs in a process of its own with a time limit. After each part gpu-check.json and gpu-check.html in FOLDER
are written anew. Without a GPU small forms of the parts run on the CPU. Exit status 1 if a part fails or is timed out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.gpu.check.page import render_page
from tests.gpu.check.parts import PARTS, Part
from tests.gpu.check.report import SCRATCH
from tests.gpu.check.runner import Check

ONE = [sys.executable, "-m", "tests.gpu.check.one"]


def main(arguments: Sequence[str] | None = None, command: Sequence[str] = ONE) -> int:
    """Run the parts asked for; returns the exit status. `command` starts the process of one part."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.check", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-check"), help="folder of the results (%(default)s)")
    names = [part.name for part in PARTS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="PART", help=f"of {', '.join(names)}")
    asked = parser.parse_args(arguments)
    out: Path = asked.out.resolve()
    shutil.rmtree(out / "parts", ignore_errors=True)
    (out / "parts").mkdir(parents=True)
    check = Check(folder=out / "parts", command=command)
    for part in PARTS:
        if asked.only is None or part.name in asked.only:
            run_part(check, part, out)
    shutil.rmtree(out / "parts" / SCRATCH, ignore_errors=True)
    print(f"results: {out / 'gpu-check.json'} and {out / 'gpu-check.html'}", flush=True)
    return int(any(part["state"] in ("failed", "timed out") for part in check.found["parts"]))


def run_part(check: Check, part: Part, out: Path) -> None:
    """Run one part and write both files anew."""
    found = check.run(part)
    for name, text in {"json": json.dumps(check.found, indent=1), "html": render_page(check.found)}.items():
        draft = out / f"gpu-check.{name}.tmp"
        draft.write_text(text, encoding="utf-8")
        draft.replace(out / f"gpu-check.{name}")
    print(f"{part.name}: {found['state']} after {found['seconds']:.0f} s: {found['summary']}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
