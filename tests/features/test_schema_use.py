"""Every value of the schema reaches a model under some flag, or is declared as one that none sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.games_on_disk import ColumnPath, Columns, as_file, encode_here, name_of, toy_columns, write_folder
from worldmodel.encoding import EncodingConfig
from worldmodel.features.plan import Samples
from worldmodel.features.store import FrameStore, StoreOptions
from worldmodel.features.view import FeatureView
from worldmodel.schema import PLAYER_FIELDS, PLAYERS, SPARSE, STAGE, UNUSED

FRAMES = 40
CONFIGS = (
    EncodingConfig(press_events=True, projectiles=True, state_flags=True, hitstun=True),
    EncodingConfig(state_age_as_embed=True),
)
"""All flags between them."""


def list_values() -> dict[str, ColumnPath]:
    """Name to column of every value: the second player's, where both have it."""
    last = PLAYERS - 1
    found: dict[str, ColumnPath] = {field.name: (f"p{last}", *field.column) for field in PLAYER_FIELDS}
    found[STAGE.name] = (STAGE.name,)
    for group in SPARSE:
        found |= {f"{group.name}.{name}": (*group.paths[0], name) for name, _ in group.fields}
    return found


VALUES = list_values()


def make_base() -> Columns:
    """A game in which all there can be is there."""
    columns = toy_columns(3, FRAMES)
    for group in SPARSE:
        for name, kind in group.fields:
            path = (*group.paths[0], name)
            columns[path] = np.full(FRAMES, True if kind == "bool" else 7, dtype=columns[path].dtype)
    columns[STAGE.name,] = np.full(FRAMES, 2, dtype=columns[STAGE.name,].dtype)
    return columns


def change(columns: Columns, path: ColumnPath) -> Columns:
    """The same game with other values in one column."""
    values = columns[path]
    other = ~values if values.dtype == bool else np.where(values == values.flat[0], values + 1, values[0])
    return {**columns, path: other.astype(values.dtype)}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[Tensor]]]:
    """Name of a value to what models see of the game in which it was changed; "": of the game as it is."""
    folder, base = tmp_path_factory.mktemp("games"), make_base()
    games = {"": base, **{name: change(base, path) for name, path in VALUES.items()}}
    files = {name: as_file(columns) for name, columns in games.items()}
    write_folder(folder / "games", {name_of(content): content for content in files.values()})
    index = encode_here(folder / "games", folder / "out").index
    store = FrameStore(folder / "out", index, index.games, StoreOptions(with_items=True, resident_bytes=1 << 40))
    places = {game.md5: n for n, game in enumerate(index.games)}
    found: dict[str, list[list[Tensor]]] = {}
    for name, content in files.items():
        samples = Samples(np.array([places[name_of(content)]]), np.zeros(1, dtype=np.int64))
        views = [FeatureView(config).decode(store, samples, FRAMES - 1) for config in CONFIGS]
        found[name] = [[view.numbers, view.classes] for view in views]
    return found


@pytest.mark.parametrize("name", list(VALUES))
def test_every_value_is_seen_by_some_model_or_declared_unused(seen: dict[str, list[list[Tensor]]], name: str) -> None:
    pairs = zip(seen[""], seen[name], strict=True)
    is_same = all(torch.equal(a, b) for before, after in pairs for a, b in zip(before, after, strict=True))
    assert is_same == (name in UNUSED)


def test_nothing_is_declared_that_does_not_exist() -> None:
    assert set(VALUES) > UNUSED
