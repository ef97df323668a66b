"""Tables of figures within a text that people write: only what stands between two comments is replaced."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

OWN = {
    r"/\S+?/(?=runs/run)": "", r"s3://games/\w+/(?=run\b)": "s3://.../", r"(head at )\S+:\d+": r"\1HOST:PORT",
    r"127\.0\.0\.1:\d+": "HOST:PORT", r"(for run )[0-9a-f]+": r"\1ID", r"( on )\w+(?= for \d+ s)": r"\1HOST",
}  # fmt: skip
"""What no other machine has in common, and what stands in its place."""
LONGEST = 240
"""Characters of a cell."""


class Row(NamedTuple):
    """One fault, and how a run fared."""

    fault: str
    outcome: str
    seconds: str
    """From the fault to the end of the run; empty: it went on."""
    lost: str
    says: str
    """The reason or the note in `run.json`."""


HEADER = ("what failed", "the run", "seconds to its end", "lost", "run.json says")


def write_rows(path: Path, name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Replace the table called `name` in a Markdown file."""
    lines = [_line(header), _line(["---"] * len(header)), *(_line(row) for row in rows)]
    text, count = re.subn(
        rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m: m[1] + "\n".join(lines) + "\n" + m[2], path.read_text(),
        flags=re.DOTALL,
    )  # fmt: skip
    if count != 1:
        raise ValueError(f"{path} has {count} tables named {name}, expected one between comments")
    path.write_text(text)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(shorten(cell) for cell in cells) + " |"


def shorten(text: str) -> str:
    """A cell without what is this machine's alone: folders, numbers of processes, addresses; and not too long."""
    text = " ".join(text.split()).replace("|", "/")
    for pattern, shown in OWN.items():
        text = re.sub(pattern, shown, text)
    return text if len(text) <= LONGEST else text[: LONGEST - 4].rsplit(" ", 1)[0] + " ..."
