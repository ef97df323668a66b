"""What of a data set's audit is no remark but a fault, unless somebody allows it by the field's name.

A column that never changes, or holds values that no game reaches, trains a model that looks sound and is not. Values
out of range are a fault in any number of games. A column that never changes is a warning, and a fault only where so
many games make it implausible, see `count_plausible`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from worldmodel.blocks.index import GameEntry, Index
from worldmodel.errors import UserError, nearest
from worldmodel.games.entry import INTERNAL_STAGES
from worldmodel.games.names import name_character, name_players, name_stage
from worldmodel.schema import FIELDS, LEGAL_STAGES, STAGE

ENOUGH_FRAMES = 10_000
"""In less than so many frames, three minutes of play, any column may be constant by chance."""
ENOUGH_GAMES = 4
"""And in fewer games: the game itself changes most fields in nearly every game."""
HABITS = {
    "button_A": 0.05, "button_B": 0.06, "button_X": 0.42, "button_Y": 0.27, "button_Z": 0.22, "button_L": 0.38,
    "button_R": 0.22, "button_D_UP": 0.97, "c_stick_x": 0.08, "c_stick_y": 0.07, "shoulder": 0.02, "l_cancel": 0.06,
}  # fmt: skip
"""What some people never use, with the share of players who did not in a game (102 real games)."""
SAME_PEOPLE = 50
"""Games that may be of the same two people, whose habits then count once."""
CHANCE = 0.001
"""What is less likely than this is no chance."""
CHOSEN = ("character",)
"""What people choose games by: it may be the same in any number of them."""


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """What is wrong with one field."""

    field: str
    """Its name in the schema, or "stage"."""
    text: str


def count_plausible(field: str) -> float:
    """In how many games a field may never change without being a fault.

    What the game itself changes: in fewer than four. What people may never use: while the chance that none of them does
    is above 1 in 1,000, where 50 games count as those of the same people. What games are chosen by: in any number.
    """
    if field in CHOSEN:
        return math.inf
    unused = HABITS.get(field)
    return ENOUGH_GAMES - 1.0 if unused is None else SAME_PEOPLE * math.ceil(math.log(CHANCE) / math.log(unused)) - 1.0


def find_alarms(index: Index) -> list[Alarm]:
    """What is wrong with a data set's fields, allowed or not."""
    return [*_find_constant(index), *_find_implausible(index), *_find_disputed(index.games), *_find_stages(index)]


def _find_constant(index: Index) -> list[Alarm]:
    games = len(index.games)
    if index.frames < ENOUGH_FRAMES:
        return []
    constant = index.audit.get("constant_fields", [])
    return [
        Alarm(field=name, text=f"never changes in {games} games, where more than {count_plausible(name):.0f} cannot be "
              "chance") for name in constant if games > count_plausible(name)
    ]  # fmt: skip


def _find_implausible(index: Index) -> list[Alarm]:
    places: dict[str, list[str]] = {}
    values = Counter[str]()
    for place, count in index.audit.get("implausible", {}).items():
        name = place.split(" ")[0].split(".")[1]
        values[name] += count
        places.setdefault(name, []).append(place)
    return [
        Alarm(field=name, text=f"{count} values that no game reaches ({_show_bounds(name)}), in {len(places[name])} "
              f"columns, the first in {name_players(places[name][0])}") for name, count in sorted(values.items())
    ]  # fmt: skip


def _show_bounds(name: str) -> str:
    low, high = FIELDS[name].bounds
    return f"{low:g} to {high:g}" if math.isfinite(low) else f"up to {high:g}"


def _find_disputed(games: Sequence[GameEntry]) -> list[Alarm]:
    """A stage that meta.json contradicts: everything that depends on it would be wrong."""
    text = _describe_dispute(games, STAGE.name)
    return [Alarm(field=STAGE.name, text=text)] if text else []


def _describe_dispute(games: Sequence[GameEntry], field: str) -> str:
    """How many games meta.json contradicts, and the first of them."""
    said = {game.md5: (game, text) for game in reversed(games) for text in game.disputed if text.startswith(field)}
    if not said:
        return ""
    game, text = list(said.values())[-1]
    held = name_stage(game.stage) if field == STAGE.name else " and ".join(map(name_character, game.characters))
    return (
        f"{len(said)} games hold another {field} than their meta.json says, the first {game.md5}: it holds {held}, "
        f"meta.json says {text}"
    )


def note_disputes(games: Sequence[GameEntry]) -> list[str]:
    """What should be said aloud: characters that meta.json contradicts, as tools number and choose them differently."""
    text = _describe_dispute(games, "character")
    return [text] if text else []


def _find_stages(index: Index) -> list[Alarm]:
    names = list(index.audit.get("stages", {}))
    numbers = {name_stage(number): number for number in range(33)}
    found = {numbers[name] if name in numbers else int(name.removeprefix("stage ")) for name in names}
    legal = found & set(LEGAL_STAGES)
    if not found or (legal == found) or (legal and not found <= set(INTERNAL_STAGES)):
        return []
    if found <= set(INTERNAL_STAGES):
        meant = ", ".join(f"{number} {LEGAL_STAGES[INTERNAL_STAGES[number]]}" for number in sorted(found))
        return [Alarm(field=STAGE.name, text=f"they look like the game's internal numbers ({meant}): give each game's "
                      "stage in meta.json, by the numbers of its start block")]  # fmt: skip
    return [
        Alarm(
            field=STAGE.name,
            text=f"{', '.join(map(name_stage, sorted(found)))} in all games, which is no tournament stage",
        )
    ]


def check_allowed(allowed: Collection[str]) -> None:
    """UserError where there is no field of an allowed name."""
    known = {*FIELDS, STAGE.name}
    for name in allowed:
        if name not in known:
            raise UserError(f"allow: there is no field {name!r}{nearest(name, known)}")


def find_refused(index: Index, read: Collection[str], allowed: Collection[str] = ()) -> list[Alarm]:
    """Alarms of fields that a model reads and that nobody has allowed, now or when the games were encoded."""
    accepted = {*allowed, *index.audit.get("allowed", [])}
    return [alarm for alarm in find_alarms(index) if alarm.field in read and alarm.field not in accepted]


def check_alarms(index: Index, read: Collection[str], allowed: Collection[str], where: str) -> list[str]:
    """What is allowed, in words.

    Args:
        index: the data set's.
        read: fields that the model reads.
        allowed: fields about which the user knows; those named when the games were encoded count as well.
        where: names the data set.

    Raises:
        UserError: a field that the model reads raises an alarm and is not allowed, or an allowed one does not exist.
    """
    check_allowed(allowed)
    if bad := find_refused(index, read, allowed):
        text = "\n  ".join(f"{alarm.field}: {alarm.text}" for alarm in bad)
        names = " ".join(dict.fromkeys(alarm.field for alarm in bad))
        raise UserError(
            f"{where} holds fields that a model would read and that cannot be right:\n  {text}\n"
            f"Look at the games; where this is as it should be, allow it by name: --allow {names}"
        )
    return [f"allowed: {alarm.field} {alarm.text}" for alarm in find_alarms(index) if alarm.field in read]
