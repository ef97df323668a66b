"""Runs exported steps as somebody does who has torch, but not this package: `python step_alone.py FOLDER`."""

import json
import sys
from pathlib import Path

sys.modules["worldmodel"] = None  # type: ignore[assignment]  # any import of it fails

import torch  # noqa: E402


def run(path: Path) -> None:
    extra = {"worldmodel.json": ""}
    module = torch.export.load(path, extra_files=extra).module()
    about = json.loads(extra["worldmodel.json"])
    frames, found = torch.load(path.with_suffix(".frames"), weights_only=True), []
    batch = len(frames[0][0])
    states = tuple(torch.zeros(batch, *s["shape"], dtype=getattr(torch, s["dtype"])) for s in about["states"])
    for floats, classes, controls in frames:
        predictions, states = module(floats, classes, controls, states)
        found.append(predictions)
    torch.save(found, path.with_suffix(".said"))


if __name__ == "__main__":
    for path in sorted(Path(sys.argv[1]).glob("*.pt2")):
        run(path)
