"""What of a data set's audit is no remark but a fault, unless somebody allows it by the field's name.

A column that never changes, or holds values that no game reaches, trains a model that looks sound and is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from worldmodel.blocks.index import Index
from worldmodel.errors import UserError, nearest
from worldmodel.schema import FIELDS, LEGAL_STAGES, STAGE

ENOUGH_FRAMES = 10_000
"""In less than so many frames, three minutes of play, a column may be constant by chance."""
ENOUGH_GAMES = 4
"""And in fewer games."""


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """What is wrong with one field."""

    field: str
    """Its name in the schema, or "stage"."""
    text: str


def find_alarms(index: Index) -> list[Alarm]:
    """What is wrong with a data set's fields, allowed or not."""
    audit, found = index.audit, []
    if index.frames >= ENOUGH_FRAMES and len(index.games) >= ENOUGH_GAMES:
        constant = audit.get("constant_fields", [])
        found += [Alarm(field=name, text=f"never changes in {len(index.games)} games") for name in constant]
    values, games = Counter[str](), Counter[str]()
    for place, count in audit.get("implausible", {}).items():
        name = place.split(" ")[0].split(".")[1]
        values[name] += count
        games[name] += 1
    found += [
        Alarm(field=name, text=f"{count} values that no game reaches, in {games[name]} columns, the first in "
              f"{next(p for p in audit['implausible'] if p.split(' ')[0].endswith('.' + name))}")
        for name, count in sorted(values.items())
    ]  # fmt: skip
    stages = audit.get("stages", {})
    if len(stages) == 1 and not set(stages) & set(LEGAL_STAGES.values()):
        found.append(Alarm(field=STAGE.name, text=f"{next(iter(stages))} in all games, which is no tournament stage"))
    return found


def check_allowed(allowed: Collection[str]) -> None:
    """UserError where there is no field of an allowed name."""
    known = {*FIELDS, STAGE.name}
    for name in allowed:
        if name not in known:
            raise UserError(f"allow: there is no field {name!r}{nearest(name, known)}")


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
    accepted = {*allowed, *index.audit.get("allowed", [])}
    alarms = [alarm for alarm in find_alarms(index) if alarm.field in read]
    if bad := [alarm for alarm in alarms if alarm.field not in accepted]:
        text = "\n  ".join(f"{alarm.field}: {alarm.text}" for alarm in bad)
        names = " ".join(dict.fromkeys(alarm.field for alarm in bad))
        raise UserError(
            f"{where} holds fields that a model would read and that cannot be right:\n  {text}\n"
            f"Look at the games; where this is as it should be, allow it by name: --allow {names}"
        )
    return [f"allowed: {alarm.field} {alarm.text}" for alarm in alarms]
