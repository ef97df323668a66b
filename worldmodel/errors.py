"""The two ways in which input can be wrong: the user's request, or one game among many."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A request that cannot be carried out. The message says what was found, what was expected and what to do.

    The command line prints the message alone (no traceback) and exits with status 2.
    """


class GameError(Exception):
    """One game that cannot be used. The message is the reason that `rejected.json` records."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as " (did you mean 'lookahead'?)" for a misspelt `name`, or "" where nothing known comes close."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
