"""`worldmodel schema`: the table of all fields."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worldmodel.cli.verb import Result, Verb

if TYPE_CHECKING:
    from worldmodel.schema import Field

COLUMNS = {
    "name": "name",
    "kind": "kind",
    "storage": "storage",
    "bits": "bits",
    "unit": "unit",
    "scale": "scale",
    "classes": "vocabulary",
    "embedding": "embedding",
    "target": "target",
    "loss": "loss",
    "switch": "switch",
    "since": "since",
}
"""Heading to the attribute of `Field` that it shows."""


@dataclass(frozen=True, kw_only=True)
class Schema(Verb):
    """Print every field of a player's frame: how it is stored, shown to the model and predicted."""

    def run(self) -> Result:
        from worldmodel.schema import PLAYER_FIELDS, STAGE, model_hash, schema_hash

        rows = [describe_field(field) for field in (*PLAYER_FIELDS, STAGE)]
        return {"schema_hash": schema_hash(), "model_hash": model_hash(), "fields": rows}

    def render(self, result: Result) -> str:
        from rich.console import Console
        from rich.table import Table

        table = Table(*COLUMNS, title=f"schema {result['schema_hash']}, as the model sees it {result['model_hash']}")
        for row in result["fields"]:
            table.add_row(*(str(row[heading] or "") for heading in COLUMNS))
        page = io.StringIO()
        Console(file=page, width=180).print(table)
        return page.getvalue().rstrip()


def describe_field(field: Field) -> dict[str, Any]:
    """One row of the table; what does not apply to the field's kind is None."""
    row = {heading: getattr(field, attribute) or None for heading, attribute in COLUMNS.items()}
    row["kind"], row["storage"], row["target"] = field.kind.value, field.storage.value, field.target.value
    if field.kind != "continuous":
        row["scale"] = None
    if field.kind != "category" and not field.embedding:
        row["classes"] = None
    return row
