"""What a game's entry of meta.json says, in whatever JSON types a tool has written it.

slippi-ai writes versions as lists, databases booleans as 0 and 1, tables whole numbers as 2.0 or "2". slippi-ai's games
hold the stage as the game's inside knows it (`INTERNAL_STAGES`, as libmelee lists them), while meta.json has the start
block's number, which is ours. Characters are the other way round: games hold the inside's number, and meta.json may
have the start block's (`START_CHARACTERS`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from worldmodel.games.names import name_character, name_stage

INTERNAL_STAGES = {6: 8, 8: 2, 18: 3, 24: 31, 25: 32, 26: 28}
"""The inside's number of each tournament stage to ours."""
START_CHARACTERS = (
    2, 3, 1, 24, 4, 5, 6, 17, 0, 18, 16, 8, 9, 12, 10, 15, 13, 14, 19, 7, 22, 20, 21, 26, 23, 25
)  # fmt: skip
"""The inside's number of each character, by the start block's."""
_ALIASES = {7: 19, 19: 7, 11: 10}
"""Sheik and Zelda are one choice, Nana is Popo's."""


@dataclass(frozen=True)
class Unfit:
    """Why a game is not trained on."""

    reason: str
    is_on_purpose: bool
    """meta.json says so; else nobody knows what it says."""


def find_unfit(entry: dict[str, object]) -> Unfit | None:
    """Why a game's entry keeps it from training; None: it does not."""
    found = entry.get("is_training", True)
    if isinstance(found, bool | int | float) and found in (0, 1):
        why = entry.get("not_training_reason") or "is_training is false in meta.json"
        return None if found else Unfit(f"not for training: {why}", is_on_purpose=True)
    shown = json.dumps(found, default=str)[:50]
    return Unfit(f"is_training is {shown} in meta.json, expected true or false", is_on_purpose=False)


def read_whole(found: object) -> int | None:
    """A whole number of 7, 7.0 or "7"; None where it is something else."""
    if isinstance(found, bool) or not isinstance(found, int | float | str):
        return None
    try:
        number = float(found)
    except (ValueError, OverflowError):
        return None
    return int(number) if math.isfinite(number) and number == int(number) else None


def read_version(found: object) -> tuple[int, ...]:
    """The numbers of "3.7.0", "v3.7.0-beta", [3, 7, 0], "(3, 7, 0)" or {"major": 3, ...}; none of something else."""
    if isinstance(found, dict):
        found = [found[name] for name in ("major", "minor", "patch", "build", "revision") if name in found]
    text = ".".join(map(str, found)) if isinstance(found, list | tuple) else str(found or "")
    numbers = re.match(r"[(\[\s]*v?(\d{1,9}(?:(?:\.|\s*,\s*)\d{1,9})*)", text)
    return tuple(map(int, re.findall(r"\d+", numbers[1]))) if numbers else ()


def find_stage(stage: int, entry: dict[str, object]) -> int:
    """Our number of the stage that a game's file names: what the entry says decides whose number it is."""
    said = read_whole(entry.get("stage"))
    return said if said is not None and INTERNAL_STAGES.get(stage) == said else stage


def find_disputes(stage: int, characters: Sequence[int], entry: dict[str, object]) -> tuple[str, ...]:
    """Statements of an entry that its game contradicts, such as "stage 3 (Pokemon Stadium)"."""
    said, found = read_whole(entry.get("stage")), []
    if said is not None and said != stage and INTERNAL_STAGES.get(said) != stage:
        found.append(f"stage {said} ({name_stage(said)})")
    players = entry.get("players")
    for player, character in zip(players if isinstance(players, list) else (), characters, strict=False):
        named = read_whole(player.get("character")) if isinstance(player, dict) else None
        if named is not None and not _is_same(character, named):
            found.append(f"character {named} ({' or '.join(dict.fromkeys(map(name_character, _read(named))))})")
    return tuple(found)


def _is_same(character: int, named: int) -> bool:
    return bool({*_read(named)} & {character, _ALIASES.get(character, character)})


def _read(named: int) -> tuple[int, int]:
    """The inside's number of a character by either numbering."""
    return named, START_CHARACTERS[named] if 0 <= named < len(START_CHARACTERS) else named
