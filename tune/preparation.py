"""The checks of a grid before anything is spent, and the data that its trials share."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from tune.options import GridRequest
from tune.variants import Trial
from worldmodel.blocks.alarms import check_alarms
from worldmodel.blocks.index import has_index, read_index
from worldmodel.errors import UserError
from worldmodel.features.split import select_games, split_games
from worldmodel.games.source import list_source
from worldmodel.object_store import MissingError
from worldmodel.storage import Location
from worldmodel.training.data import filter_of
from worldmodel.training.room import check_lengths

TOY_GAMES = 40
TOY_SETTINGS: dict[str, Any] = {"training.num_epochs": 1, "training.batch_size": 8, "model.output_scale": 0.01}
"""Values of the laptop scale on toy games: more and smaller steps, for there are few frames."""
PROBE = ".writable"
"""File that is written and deleted again, to learn whether the storage can be written."""


def prepare_data(options: GridRequest) -> str:
    """Blocks that all trials share: encoded once, found again later."""
    from worldmodel.training.data import prepare_blocks

    return prepare_blocks(options.data or make_toys(options.place), options.place, say)


def check_source(data: str) -> None:
    """UserError where there is nothing to read."""
    if data and not has_index(Location.of(data)):
        list_source(data)


def make_toys(storage: str) -> str:
    """Toy games below the storage, made once."""
    from worldmodel.games.toy import write_toy_games

    out = Location.of(storage).local_path()
    if out is None:
        raise UserError("no data: toy games are made on a local disk only; name games or blocks with --data")
    write_toy_games(out / "toy", TOY_GAMES, 0)
    return str(out / "toy")


def check_writable(folder: Location) -> None:
    """UserError where nothing can be written."""
    local = folder.local_path()
    absent = [path for path in (local, *local.parents) if not path.exists()] if local else []
    try:
        (folder / PROBE).write_text("")
        (folder / PROBE).delete()
        with suppress(OSError):  # another grid, which begins at the same time, has made something there
            for path in absent:  # a request that is refused later leaves nothing behind
                path.rmdir()
    except MissingError as error:  # a file system that makes no folders
        raise UserError(f"{folder} cannot be made: name another --storage, where folders can be written") from error


def check_games(blocks: str, trials: Sequence[Trial]) -> None:
    """UserError where the data leave an experiment nothing to train or to validate on."""
    index = read_index(Location.of(blocks))
    games = index.games
    for config in (trial.config for trial in trials):
        check_alarms(index, config.encoding.layout.field_names, config.data.allow, blocks)
        chosen = select_games(games, filter_of(config.data))
        check_lengths(config, split_games(chosen, config.training.train_split, config.data.split).train)


def say(text: str) -> None:
    """Tell people something on stderr, where it cannot mix with a result; nobody may read it any more."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)
