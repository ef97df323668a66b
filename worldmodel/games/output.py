"""The folder that a command writes games or blocks into: named on purpose, and never the source."""

from __future__ import annotations

from worldmodel.errors import UserError
from worldmodel.storage import Location


def name_places(source: str, out: str) -> tuple[Location, Location]:
    """Source and output. UserError where one has an empty name, or both are one folder, under whatever names."""
    for name, what in ((source, "source"), (out, "output")):
        if not name:
            raise UserError(f"the {what} is an empty name: name a folder (. is the one that you are in)")
    place, target = Location.of(source), Location.of(out)
    if _resolve(place) == _resolve(target):
        raise UserError(f"{target} is named as source and as output, which needs a folder of its own")
    return place, target


def _resolve(place: Location) -> Location:
    local = place.local_path()
    return place if local is None else Location.of(local.resolve())
