"""A batch and its loss are the same however many workers compute them, and whatever games' files lack."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.tiny_runs import CPU, configure, open_data, write_blocks
from worldmodel.blocks.index import PARTITIONS, GameEntry, partition_of
from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.features.plan import Plan, SampleShape
from worldmodel.model.build import build_model
from worldmodel.model.world_model import WorldModel
from worldmodel.training.feed import Feed, Worker, bound_part, check_shares
from worldmodel.training.loss import compute_loss, count_terms

KINDS: dict[str, dict[str, Any]] = {
    "sequence": {},
    "window": {"training.mode": "window", "training.batch_size": 30},
    "lookahead": {"encoding.lookahead": 1, "encoding.hitstun": True},
    "single": {"training.batch_size": 1},
}


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blocks(tmp_path_factory.mktemp("games"))


def open_feed(blocks: Path, config: ExperimentConfig, rank: int = 0, world: int = 1) -> Feed:
    return Feed(open_data(config, blocks), config, Worker(device=CPU, rank=rank, world=world))


def make_model(config: ExperimentConfig) -> WorldModel:
    torch.manual_seed(0)
    return build_model(config.model, config.encoding.layout)


def compute_gradient(model: WorldModel, feed: Feed, config: ExperimentConfig, step: int) -> torch.Tensor:
    model.zero_grad()
    batch = feed.batch(step)
    predictions, _ = model(batch.inputs, wants_state=False)
    loss, _ = compute_loss(predictions, batch.targets, config.loss_weights, batch.denominators)
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("kind", list(KINDS))
@settings(max_examples=4, deadline=None)
@given(step=st.integers(0, 200), world=st.sampled_from([2, 4]))
def test_the_mean_of_the_workers_gradients_is_that_of_the_whole_batch(
    blocks: Path, kind: str, step: int, world: int
) -> None:
    config = configure(KINDS[kind], **{"training.train_split": 0.875})
    model = make_model(config)
    try:
        check_shares(open_feed(blocks, config).plan, world)
    except UserError:
        world = 2
    parts = [compute_gradient(model, open_feed(blocks, config, rank, world), config, step) for rank in range(world)]
    whole = compute_gradient(model, open_feed(blocks, config), config, step)
    assert whole.norm() > 0
    assert torch.allclose(torch.stack(parts).mean(0), whole, rtol=1e-4, atol=1e-6 * float(whole.abs().max()))


@pytest.mark.parametrize("kind", list(KINDS))
def test_an_epochs_targets_are_each_counted_once_by_one_worker(blocks: Path, kind: str) -> None:
    config = configure(KINDS[kind])
    feeds = [open_feed(blocks, config, rank, 2) for rank in range(2)]
    plan = feeds[0].plan
    own = [sum(int(feed.batch(step).targets.valid.sum()) for step in range(plan.steps_per_epoch)) for feed in feeds]
    assert sum(own) == plan.epoch_targets == int(plan.targets.sum())
    assert min(own) > 0


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("kind", list(KINDS))
def test_denominators_count_the_whole_batch(blocks: Path, kind: str, world: int) -> None:
    config = configure(KINDS[kind])
    whole = open_feed(blocks, config)
    for step in range(min(4, whole.plan.steps_per_epoch)):
        expected = torch.stack(list(count_terms(whole.batch(step).targets).values())) / world
        for rank in range(world):
            batch = open_feed(blocks, config, rank, world).batch(step)
            torch.testing.assert_close(batch.denominators, expected)
            assert batch.targets_in_all == int(whole.batch(step).targets.valid.sum())


def test_a_field_that_a_file_lacks_counts_neither_above_nor_below_the_line(blocks: Path) -> None:
    config = configure({"training.batch_size": 40})
    feed, model = open_feed(blocks, config), make_model(config)
    batch = feed.batch(0)
    samples = feed.plan.global_batch(0)
    names = [field.name for field in feed.view.layout.number_targets["dynamics"]]
    lacks = np.array([bool(feed.plan.games[game].missing) for game in samples.games])
    assert set(lacks) == {True, False}
    with torch.no_grad():
        predictions, _ = model(batch.inputs, wants_state=False)
        _, terms = compute_loss(predictions, batch.targets, config.loss_weights, batch.denominators)
    errors = (predictions.numbers["dynamics"] - batch.targets.numbers["dynamics"]).double().numpy() ** 2
    total = count = 0.0
    for row in range(len(samples)):
        known = [place for place, name in enumerate(names) if not (lacks[row] and name == "hitlag")]
        chosen = errors[row][batch.targets.valid[row].numpy()][:, :, known]
        total, count = total + chosen.sum(), count + chosen.size
    assert float(terms["dynamics"]) == pytest.approx(total / count, rel=1e-5)
    spoilt = {**batch.targets.numbers, "dynamics": batch.targets.numbers["dynamics"].clone()}
    spoilt["dynamics"][torch.from_numpy(lacks)] += 1000 * torch.tensor([name == "hitlag" for name in names])
    _, again = compute_loss(
        predictions, replace(batch.targets, numbers=spoilt), config.loss_weights, batch.denominators
    )
    assert torch.equal(again["dynamics"], terms["dynamics"])


def test_frames_in_mapped_files_give_the_same_batches(blocks: Path) -> None:
    config = configure({"encoding.projectiles": True})
    dataset = open_data(config, blocks)
    feeds = [Feed(dataset, config, Worker(device=CPU, resident_bytes=room)) for room in (0, 1 << 40)]
    assert [feed.store.is_resident for feed in feeds] == [False, True]
    for step in range(3):
        mapped, resident = (feed.batch(step) for feed in feeds)
        assert torch.equal(mapped.inputs.floats, resident.inputs.floats)
        assert torch.equal(mapped.targets.numbers["continuous"], resident.targets.numbers["continuous"])


def entry_in(partition: int, number: int) -> GameEntry:
    tries = (hashlib.md5(f"{number} {k}".encode()).hexdigest() for k in range(10_000))
    return GameEntry(
        md5=next(md5 for md5 in tries if partition_of(md5) == partition), frames=50, stage=2, characters=(1, 2),
        end_method=2, block=f"b{partition}", row=0, order=number, source="parsed", source_bytes=1, shard="",
        repeats="none", missing=(), absent=(),
    )  # fmt: skip


@given(partitions=st.lists(st.integers(0, PARTITIONS - 1), min_size=1, max_size=6))
def test_a_worker_without_games_is_refused_before_training(partitions: list[int]) -> None:
    games = [entry_in(partition, number) for number, partition in enumerate(partitions)]
    plan = Plan(games, SampleShape(mode="sequence", context=4, length=8), 4, 0)
    for world in (1, 2, 4, 8):
        if all(any(p % world == rank for p in partitions) for rank in range(world)):
            check_shares(plan, world)
        else:
            with pytest.raises(UserError, match="use fewer workers"):
                check_shares(plan, world)


def test_steps_of_one_size_hold_every_share_whoever_computes_it(blocks: Path) -> None:
    for parts, size in ((1, 6), (2, 12), (4, 24), (8, 12)):
        feed = open_feed(blocks, configure({"training.batch_parts": parts, "training.batch_size": size}))
        feed.keeps_size = True
        for step in range(3 * feed.plan.steps_per_epoch):
            own, batches = feed.parts_of(step), feed.batches(step)
            most = [bound_part(feed.plan, part, parts) for part in range(parts)]
            assert [len(batch.inputs.floats) for batch in batches] == [max(1, count) for count in most]
            valid = [batch.targets.valid.any(1).sum() for batch in batches]
            assert [int(count) for count in valid] == [len(some) for some in own]


@given(
    shares=st.lists(st.integers(0, 400), min_size=PARTITIONS, max_size=PARTITIONS).filter(any),
    size=st.integers(1, 300), parts=st.sampled_from([2, 4, 8]), epoch=st.integers(0, 3),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_no_part_of_a_batch_is_larger_than_its_bound(shares: list[int], size: int, parts: int, epoch: int) -> None:
    games = [replace(entry_in(p, 0), frames=1 + 8 * count) for p, count in enumerate(shares)]
    plan = Plan(games, SampleShape(mode="sequence", context=4, length=8), size, 0)
    for step in range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch):
        for part in range(parts):
            assert len(plan.batch(step, part, parts)) <= bound_part(plan, part, parts)


def test_streamed_packets_give_the_batches_whose_blocks_are_held(blocks: Path) -> None:
    config = configure({"encoding.projectiles": True, "training.swap_players": True})
    dataset = open_data(config, blocks)
    streaming, resident = (Feed(dataset, config, Worker(device=CPU, resident_bytes=room)) for room in (0, 1 << 40))
    made = [streaming.packet(step, 1e-3) for step in (0, 1)]  # the second one is made before the first one is opened
    for step, packet in enumerate(made):
        assert packet is not None
        (found,), (expected,) = streaming.open(packet), resident.batches(step)
        streaming.store.release()
        assert torch.equal(found.inputs.floats, expected.inputs.floats)
        assert torch.equal(found.targets.valid, expected.targets.valid)
        assert torch.equal(found.denominators, expected.denominators)
