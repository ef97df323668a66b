"""The order of samples: every target once, the same batches for any number of workers, a function of the step."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.games_on_disk import name_of
from worldmodel.blocks.index import PARTITIONS, GameEntry, partition_of
from worldmodel.errors import UserError
from worldmodel.features.plan import GROUP_BLOCKS, Plan, Samples, SampleShape, check_world

SEED = 3


def game(number: int, frames: int, per_block: int = 3) -> GameEntry:
    md5 = name_of(str(number).encode())
    partition = partition_of(md5)
    return GameEntry(
        md5=md5, frames=frames, stage=31, characters=(1, 2), end_method=2, block=f"{partition}-{number // per_block}",
        row=number * 10_000, order=number, source="parsed", source_bytes=1, shard="", repeats="none", missing=(),
        absent=(),
    )  # fmt: skip


lengths = st.lists(st.integers(1, 300), min_size=1, max_size=30)
shapes = st.builds(
    SampleShape,
    mode=st.sampled_from(["sequence", "window"]),
    context=st.integers(1, 12),
    length=st.integers(1, 40),
    lookahead=st.integers(0, 2),
)


def make_plan(frames: list[int], shape: SampleShape, batch_size: int, seed: int = SEED) -> Plan | None:
    games = [game(number, count) for number, count in enumerate(frames)]
    if not any(shape.count_targets(count) for count in frames):
        with pytest.raises(UserError, match="long enough"):
            Plan(games, shape, batch_size, seed)
        return None
    return Plan(games, shape, batch_size, seed)


def epoch(plan: Plan, number: int = 0) -> list[Samples]:
    return [plan.global_batch(number * plan.steps_per_epoch + step) for step in range(plan.steps_per_epoch)]


def targets_of(plan: Plan, samples: Samples) -> list[tuple[int, int]]:
    """(game, frame) of each valid target, counted frame by frame."""
    shape, found = plan.shape, []
    for place, start in zip(samples.games.tolist(), samples.starts.tolist(), strict=True):
        first = start + shape.inputs - shape.positions + 1 + shape.lookahead
        found += [(place, f) for f in range(first, first + shape.positions) if f < plan.games[place].frames]
    return found


@given(frames=lengths, shape=shapes, batch_size=st.integers(1, 64))
@settings(max_examples=60, deadline=None)
def test_every_frame_with_enough_before_it_is_a_target_exactly_once_in_every_epoch(
    frames: list[int], shape: SampleShape, batch_size: int
) -> None:
    plan = make_plan(frames, shape, batch_size)
    if plan is None:
        return
    before = (shape.context if shape.mode == "window" else 1) + shape.lookahead
    expected = {(place, frame) for place, count in enumerate(frames) for frame in range(before, count)}
    for number in range(2):
        counted = Counter(target for batch in epoch(plan, number) for target in targets_of(plan, batch))
        assert counted == dict.fromkeys(expected, 1)
        assert plan.epoch_targets == len(expected) == sum(int(plan.count_valid(b).sum()) for b in epoch(plan, number))


@given(frames=lengths, shape=shapes, batch_size=st.integers(1, 64))
@settings(max_examples=40, deadline=None)
def test_no_sample_begins_outside_its_game_and_no_context_reaches_beyond_it(
    frames: list[int], shape: SampleShape, batch_size: int
) -> None:
    plan = make_plan(frames, shape, batch_size)
    for batch in epoch(plan) if plan else []:
        ends = np.array([plan.games[place].frames for place in batch.games])
        assert (batch.starts >= 0).all()
        assert (batch.starts + shape.inputs - shape.positions + 1 + shape.lookahead < ends).all()


@given(frames=lengths, shape=shapes, batch_size=st.integers(1, 64), world=st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_the_ranks_together_hold_the_global_batch(
    frames: list[int], shape: SampleShape, batch_size: int, world: int
) -> None:
    plan = make_plan(frames, shape, batch_size)
    if plan is None:
        return
    for step in range(plan.steps_per_epoch):
        whole = plan.global_batch(step)
        parts = [plan.batch(step, rank, world) for rank in range(world)]
        assert len(whole) == sum(len(part) for part in parts)
        pairs = [list(zip(s.games.tolist(), s.starts.tolist(), strict=True)) for s in (whole, *parts)]
        assert Counter(pairs[0]) == Counter(pair for part in pairs[1:] for pair in part)
        for rank, part in enumerate(parts):
            assert {partition_of(plan.games[place].md5) % world for place in part.games} <= {rank}


@given(frames=lengths, shape=shapes, batch_size=st.integers(1, 64), step=st.integers(0, 500))
@settings(max_examples=40, deadline=None)
def test_a_step_has_the_same_batch_whoever_asks_and_whatever_was_asked_before(
    frames: list[int], shape: SampleShape, batch_size: int, step: int
) -> None:
    plan, fresh = make_plan(frames, shape, batch_size), make_plan(frames, shape, batch_size)
    if plan is None or fresh is None:
        return
    for earlier in range(3):
        plan.global_batch(earlier * plan.steps_per_epoch)
    first, second = plan.global_batch(step), fresh.global_batch(step)
    assert np.array_equal(first.games, second.games)
    assert np.array_equal(first.starts, second.starts)


def test_epochs_and_seeds_differ_in_order_but_not_in_what_they_hold() -> None:
    shape = SampleShape(mode="sequence", context=10, length=16)
    plan = Plan([game(n, 400) for n in range(20)], shape, 32, SEED)
    other = Plan([game(n, 400) for n in range(20)], shape, 32, SEED + 1)
    orders = [
        np.concatenate([s.starts + 1000 * s.games for s in epoch(p, n)]) for p, n in ((plan, 0), (plan, 1), (other, 0))
    ]
    for order in orders[1:]:
        assert not np.array_equal(orders[0], order)
        assert np.array_equal(np.sort(orders[0]), np.sort(order))


def test_a_full_batch_draws_from_every_partition_in_proportion() -> None:
    shape = SampleShape(mode="window", context=10, length=1)
    plan = Plan([game(n, 500) for n in range(200)], shape, 512, SEED)
    totals = np.bincount(plan.partitions, weights=plan.counts, minlength=PARTITIONS) / plan.samples
    for step in range(plan.steps_per_epoch - 1):
        shares = np.bincount(plan.partitions[plan.global_batch(step).games], minlength=PARTITIONS) / 512
        assert np.abs(shares - totals).max() < 2 / 512 + 1e-9


def test_a_worker_needs_only_a_few_blocks_at_a_time() -> None:
    shape = SampleShape(mode="sequence", context=10, length=16)
    plan = Plan([game(n, 400, per_block=8) for n in range(640)], shape, 64, SEED)
    blocks = {g.block for g in plan.games}
    for step in range(0, plan.steps_per_epoch, 10):
        near = {plan.games[place].block for place in plan.batch(step, 0, 8).games}
        assert len(near) <= 8 < len(blocks) / 8


@pytest.mark.parametrize("world", [1, 2, 8])
def test_the_blocks_ahead_are_those_that_the_next_steps_read_the_present_groups_first(world: int) -> None:
    shape = SampleShape(mode="sequence", context=4, length=8)
    plan = Plan([game(number, 60 + number, per_block=1) for number in range(200)], shape, 16, SEED)
    partitions = frozenset(range(0, PARTITIONS, world))
    own = {g.block for g in plan.games if partition_of(g.md5) in partitions}
    for step in range(0, 2 * plan.steps_per_epoch, 3):
        told = plan.blocks_ahead(step, partitions)
        read = {plan.games[place].block for place in plan.batch(step, 0, world).games}
        assert len(told) == len(set(told)) and read <= set(told) <= own
        at_a_border = len(partitions) * GROUP_BLOCKS
        assert read <= set(told[: plan.count_blocks_at_once(partitions) + at_a_border])
        later = {plan.games[p].block for s in range(step, step + 20) for p in plan.batch(s, 0, world).games}
        assert later <= set(told)


@pytest.mark.parametrize("world", [0, 9, 16])
def test_more_workers_than_parts_of_the_data_are_refused(world: int) -> None:
    with pytest.raises(UserError, match="use 1 to 8"):
        check_world(world)


@given(seed=st.integers(0, 10), batch_size=st.integers(1, 64))
@settings(max_examples=20, deadline=None)
def test_two_epochs_show_every_sample_from_both_sides(seed: int, batch_size: int) -> None:
    games = [game(number, 90 + number) for number in range(20)]
    shape = SampleShape(mode="sequence", context=1, length=8)
    plan = Plan(games, shape, batch_size, seed, swaps_players=True)
    sides = []
    for number in range(3):
        sides.append({})
        for batch in epoch(plan, number):
            assert batch.swapped is not None
            sides[-1] |= dict(zip(zip(batch.games, batch.starts, strict=True), batch.swapped, strict=True))
    assert sides[0] == {sample: not side for sample, side in sides[1].items()} == sides[2]
    assert 0.35 < np.mean(list(sides[0].values())) < 0.65


def test_workers_see_their_samples_from_the_side_that_the_whole_batch_does() -> None:
    games = [game(number, 200) for number in range(30)]
    plan = Plan(games, SampleShape(mode="sequence", context=1, length=8), 64, SEED, swaps_players=True)
    whole = plan.global_batch(5)
    assert whole.swapped is not None
    expected = {(g, s): side for g, s, side in zip(whole.games, whole.starts, whole.swapped, strict=True)}
    found = {}
    for rank in range(4):
        part = plan.batch(5, rank, 4)
        assert part.swapped is not None
        found |= {(g, s): side for g, s, side in zip(part.games, part.starts, part.swapped, strict=True)}
    assert found == expected
