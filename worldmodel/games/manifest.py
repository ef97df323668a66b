"""What an upload leaves beside the games: a manifest that names every object, written last, and a mark until then."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from worldmodel.errors import UserError
from worldmodel.games.source import UNFINISHED
from worldmodel.object_store import MissingError
from worldmodel.storage import Location, check_plain_name

MANIFEST = "upload.json"
Kind = TypeVar("Kind", bound=BaseModel)
ObjectName = Annotated[str, AfterValidator(check_plain_name)]
"""No name leads out of the folder, whoever wrote the manifest."""


class StoredObject(BaseModel):
    """One object that an upload stored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ObjectName
    """Its name in the folder."""
    size: int
    """Bytes."""
    sha256: str
    """Of its bytes, in hex."""
    tag: str
    """What the store said of it when it was found whole: another one means that it was replaced since."""
    games: dict[str, str] = {}
    """Of a shard that was packed on the way: game to sha256 of its members, in its order."""


class Manifest(BaseModel):
    """What a folder holds; where it stands and no mark beside it, all of it is there."""

    model_config = ConfigDict(extra="forbid")

    version: int = 1
    objects: list[StoredObject] = []
    """By name."""
    rejected: list[dict[str, str]] = []
    """What the source named and did not give: `file` and `reason`."""


class Mark(BaseModel):
    """Says that an upload has begun and not ended; reading games there is refused meanwhile."""

    model_config = ConfigDict(extra="forbid")

    source: str = ""
    """Where the games come from."""
    objects: list[ObjectName] = []
    """Names that it may have written or removed."""


def read_manifest(folder: Location) -> Manifest | None:
    """The manifest of a folder; None where it has none.

    Raises:
        UserError: it is damaged.
    """
    return _read(folder / MANIFEST, Manifest)


def read_mark(folder: Location) -> Mark | None:
    """The mark of an upload that has not ended; None where there is none. UserError where it is damaged."""
    return _read(folder / UNFINISHED, Mark)


def _read(location: Location, kind: type[Kind]) -> Kind | None:
    try:
        return kind.model_validate_json(location.read_bytes())
    except MissingError:
        return None
    except ValidationError as error:
        raise UserError(f"{location} is damaged ({error.error_count()} faults): delete it and upload again") from error
