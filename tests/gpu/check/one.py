"""The process of one part: `python -m tests.gpu.check.one NAME FOLDER SECONDS`. Its state goes beside its rows."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

import torch

from tests.gpu.check.parts import PARTS, Part
from tests.gpu.check.report import Report, Skipped


def run(part: Part, folder: Path, seconds: float) -> tuple[str, str]:
    """State and summary of a part that came to its end."""
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    report = Report(folder=folder, name=part.name, seconds=seconds)
    if part.needs_gpu and not report.has_gpu:
        return "skipped", "needs a GPU"
    try:
        summary = part.load()(report)
    except Skipped as error:
        return "skipped", str(error)
    rows = read_rows(folder, part.name)
    errors = sum("error" in row for row in rows)
    if not rows:
        return "failed", "no rows"
    where = "" if report.has_gpu else " (on the CPU)"
    counted = f"{errors} of {len(rows)} rows failed" if errors else f"{len(rows)} rows"
    return "failed" if errors else "passed", (f"{counted}; {summary}" if summary else counted) + where


def read_rows(folder: Path, name: str) -> list[dict[str, object]]:
    """The rows that a part has written so far; a last line cut off by its death does not count."""
    path, found = folder / f"{name}.rows", []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def main(name: str, folder: Path, seconds: float) -> None:
    """Run the part of that name."""
    part = next(part for part in PARTS if part.name == name)
    try:
        state, summary = run(part, folder, seconds)
    except Exception as error:  # noqa: BLE001  (the edge of the process)
        traceback.print_exc()
        state, summary = "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
    (folder / f"{name}.end").write_text(json.dumps({"state": state, "summary": summary}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
