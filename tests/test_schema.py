"""The one schema agrees with the files that people have, and its hashes change with what they stand for."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.games_on_disk import list_leaves
from worldmodel import schema
from worldmodel.schema import (
    FIELDS,
    PLAYER_FIELDS,
    SPARSE,
    Code,
    Field,
    Kind,
    Storage,
    Target,
    code_table,
    model_hash,
    parsed_type,
    schema_hash,
)


@pytest.fixture
def fresh_hashes() -> Iterator[None]:
    yield
    schema_hash.cache_clear()
    model_hash.cache_clear()


def hashes_with(monkeypatch: pytest.MonkeyPatch, fields: tuple[Field, ...]) -> tuple[str, str]:
    monkeypatch.setattr(schema, "PLAYER_FIELDS", fields)
    schema_hash.cache_clear()
    model_hash.cache_clear()
    return schema_hash(), model_hash()


def test_every_field_stands_once() -> None:
    assert len(FIELDS) == len(PLAYER_FIELDS) == len({field.column for field in PLAYER_FIELDS})


def test_real_games_have_the_columns_and_types_that_we_write(shared_folder: Path) -> None:
    folder = shared_folder / "data" / "games"
    names = [entry["slp_md5"] for entry in json.loads((folder / "meta.json").read_text())]
    content = zlib.decompress((folder / "games" / names[0]).read_bytes())
    found = pq.read_schema(io.BytesIO(content)).field("root").type
    assert list_leaves(found) == list_leaves(parsed_type())


@pytest.mark.parametrize("field", PLAYER_FIELDS, ids=lambda field: field.name)
def test_a_field_is_complete_for_its_kind(field: Field) -> None:
    assert field.unit
    assert (field.kind is Kind.CATEGORY) <= bool(field.vocabulary and field.embedding)
    assert (field.target is Target.NONE) == (not field.loss)
    assert (field.target is Target.CLASS) <= (field.kind is Kind.CATEGORY)
    assert (field.target is Target.LOGIT) <= (field.storage is Storage.BIT)
    assert field.bits == 1 or field.storage is Storage.BIT
    assert field.tight is not field.storage
    assert (field.code is not None) <= (field.tight is Storage.UINT8)


@pytest.mark.parametrize("code", Code)
def test_codes_are_ascending_distinct_and_fit_a_byte(code: Code) -> None:
    table = code_table(code)
    assert table.dtype == np.float32 and len(table) <= 256
    assert (np.diff(table) > 0).all()


def test_stick_codes_have_neutral_and_both_ends() -> None:
    table = code_table(Code.STICK)
    assert {0.0, 0.5, 1.0} <= set(table.tolist())


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"storage": Storage.UINT16}, (True, False)),
        ({"tight": None}, (True, False)),
        ({"unit": "other"}, (True, False)),
        ({"scale": 2.0}, (False, True)),
        ({"target": Target.VALUE}, (False, True)),
        ({"switch": "hitstun"}, (False, True)),
        ({"label": "other"}, (False, False)),
    ],
)
def test_the_hashes_change_with_what_is_stored_and_with_what_the_model_sees(
    fresh_hashes: None, monkeypatch: pytest.MonkeyPatch, change: dict, what: tuple[bool, bool]
) -> None:
    before = hashes_with(monkeypatch, PLAYER_FIELDS)
    place = next(n for n, field in enumerate(PLAYER_FIELDS) if field.name == "percent")
    changed = (*PLAYER_FIELDS[:place], replace(PLAYER_FIELDS[place], **change), *PLAYER_FIELDS[place + 1 :])
    after = hashes_with(monkeypatch, changed)
    assert tuple(a != b for a, b in zip(before, after, strict=True)) == what


def test_sparse_slots_do_not_overlap() -> None:
    paths = [path for group in SPARSE for path in group.paths]
    assert len(paths) == len(set(paths))
