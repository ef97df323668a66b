"""A loss that is no number says where it came from, and costs no good checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.interruptions import BAD_VALUE, Ending, Place
from tests.training.tiny_runs import CPU, Log, begin, configure, write_blocks
from worldmodel.encoding import EncodingConfig
from worldmodel.run.record import State
from worldmodel.run.spikes import FACTOR, MOST, NEEDED, SpikeWatch
from worldmodel.storage import Location
from worldmodel.training.checkpoint_list import newest_good
from worldmodel.training.nonfinite import NonFiniteError, name_columns
from worldmodel.training.workers import Workers

CONFIGS = [
    EncodingConfig(),
    EncodingConfig(state_age_as_embed=True, projectiles=True, state_flags=True, hitstun=True, lookahead=1),
]


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blocks(tmp_path_factory.mktemp("games"))


@pytest.mark.parametrize("config", CONFIGS)
def test_every_column_of_the_inputs_has_a_name(config: EncodingConfig) -> None:
    assert len(name_columns(config.layout)) == config.layout.float_width


def test_a_model_that_diverges_is_told_from_bad_data_and_its_terms_and_fields_are_named(
    blocks: Path, tmp_path: Path
) -> None:
    wild = configure({"training.lr": 1e30, "training.clip": 1e30, "training.warmup_pct": 0.0})
    with pytest.raises(NonFiniteError) as caught:
        Log(folder=tmp_path).run(begin(wild, blocks))
    said = str(caught.value)
    assert "all values of that batch are numbers, so the model diverged in " in said
    assert "which predict percent, x, y, shield_strength" in said
    assert "lower training.lr" in said


@pytest.mark.parametrize("rank", [0, 1])
def test_a_bad_value_in_any_workers_part_is_named_with_its_game(blocks: Path, tmp_path: Path, rank: int) -> None:
    config, place = configure(), Place(blocks=blocks, storage=tmp_path)
    trainer = begin(config, blocks)
    at = trainer.schedule.steps_per_epoch + 2
    own = trainer.feed._own(trainer.feed.plan.global_batch(at), rank, 2)
    game = trainer.feed.plan.games[own.games[0]].md5
    assert 0 not in place.run(config, Ending(kind=BAD_VALUE, step=at, rank=rank), workers=2)
    record = place.read(config)
    assert record.state is State.FAILED
    assert f"at step {at + 1} (not finite: loss, " in record.reason
    assert f"no numbers in P1 y, in game {game}. " in record.reason
    kept = newest_good(Location.of(tmp_path) / config.name).checkpoint
    assert kept is not None
    assert kept.state.step == trainer.schedule.steps_per_epoch
    assert kept.find_non_finite() is None


def test_only_what_towers_over_the_losses_before_is_a_spike() -> None:
    watch = SpikeWatch()
    assert [watch.judge(9.0 - n, 100.0, n) for n in range(NEEDED)] == [None] * NEEDED
    assert watch.judge(5.0, FACTOR * 7.0, 8) is None
    assert "at step 9, " in (watch.judge(5.0, FACTOR * 7.0 + 0.1, 9) or "")


def test_a_loss_that_spikes_for_ever_is_noted_a_limited_number_of_times() -> None:
    watch = SpikeWatch()
    notes = [watch.judge(1.0, 50.0, step) for step in range(100)]
    assert sum(note is not None for note in notes) == MOST
    assert "further spikes are not noted" in [note for note in notes if note][-1]


def test_one_worker_finds_its_own_peak() -> None:
    workers = Workers(device=CPU)
    assert workers.find_peak(torch.tensor(3.0), torch.tensor(7)) == (3.0, 7)
    assert workers.gather("here") == ["here"]
    assert workers.are_same(5)
