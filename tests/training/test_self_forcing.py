"""In self-forcing steps the model goes on alone, and its loss is how far its own frames are from the true ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.tiny_runs import CPU, begin, configure, open_data, write_blocks
from worldmodel.experiment.config import SelfForcingConfig
from worldmodel.features.batch import Inputs
from worldmodel.features.feedback import Feedback
from worldmodel.features.plan import SampleShape
from worldmodel.model.unroll import Unroller, make_memory
from worldmodel.schema import field_named
from worldmodel.training.feed import Feed, Worker
from worldmodel.training.loop import Trainer
from worldmodel.training.loss import compute_loss, count_terms
from worldmodel.training.self_forcing import find_ends, find_length, go_alone

ON: dict[str, Any] = {"self_forcing.enabled": True, "self_forcing.ratio": 1}
PRIORS: dict[str, Any] = {"model.kinematic_head": True, "model.output_scale": 0.05, "model.copy_prior": 6.0}
KINDS: dict[str, dict[str, Any]] = {
    "sequence": {**ON, **PRIORS, "training.swap_players": True},
    "ahead": {**ON, "encoding.lookahead": 1, "encoding.press_events": True, "encoding.state_age_as_embed": True},
    "window": {**ON, **PRIORS, "training.mode": "window", "training.batch_size": 40},
    "mlp": {**ON, "model.arch": "mlp", "training.mode": "window", "encoding.lookahead": 1},
    "published": {**ON, "encoding.targets": "published"},
}


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blocks(tmp_path_factory.mktemp("games"))


def test_which_steps_are_self_forcing_and_how_long_follows_from_the_step() -> None:
    config = SelfForcingConfig(enabled=True, ratio=2, unroll_length=7, curriculum=(1, 4))
    lengths = [find_length(config, step, steps_per_epoch=6) for step in range(18)]
    assert lengths == [0, 0, 1, 0, 0, 1, 0, 0, 4, 0, 0, 4, 0, 0, 4, 0, 0, 4]
    assert [find_length(SelfForcingConfig(enabled=True, ratio=1), step, 6) for step in range(4)] == [0, 3, 0, 3]
    assert not any(find_length(SelfForcingConfig(), step, 6) for step in range(10))


@pytest.mark.parametrize(
    ("length", "ends"), [(1, (17, 33, 49)), (16, (17, 33, 49)), (17, (17, 33, 49)), (18, (17, 33)), (49, (17,))]
)
def test_a_sequence_is_left_after_its_quarters_as_far_as_frames_follow(length: int, ends: tuple[int, ...]) -> None:
    shape = SampleShape(mode="sequence", context=10, length=64, lookahead=1)
    assert find_ends(shape, length) == ends
    assert ends[-1] + length <= shape.frames
    assert find_ends(SampleShape(mode="window", context=10, length=1, lookahead=1), length) == (11,)


def begin_alone(blocks: Path, kind: str) -> Trainer:
    trainer = begin(configure(KINDS[kind]), blocks)
    for name, parameter in trainer.model.named_parameters():
        if "_head." in name:  # heads of deltas begin at 0: nothing would move
            torch.nn.init.normal_(parameter, std=0.2)
    return trainer


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_error_is_the_distance_of_own_frames_from_true_ones(blocks: Path, kind: str) -> None:
    trainer = begin_alone(blocks, kind)
    (batch,) = trainer.feed.batches(1)
    excursion, layout = batch.excursion, trainer.feed.view.layout
    assert excursion is not None
    feedback, model, mode = Feedback(layout), trainer.model.eval(), trainer.training.mode
    said, due = go_alone(model, mode, excursion, feedback, trainer.parallel)
    unroller = Unroller(make_memory(model, mode), feedback)
    facts = excursion.facts
    place = [field.name for field in layout.number_targets["continuous"]].index("x")
    with torch.no_grad():
        for row, end in enumerate(excursion.ends):
            unroller.begin(facts.cut(slice(0, end)))
            for step in range(excursion.length):
                own = unroller.step(facts.controls[:, end + step]).get("x")[:, 0]
                rows = slice(row * len(own), (row + 1) * len(own))
                error = (said.numbers["continuous"] - due.numbers["continuous"])[rows, step, :, place]
                distance = own - facts.get("x")[:, end + step]
                assert torch.allclose(error / field_named("x").scale, distance, atol=1e-3)
                assert torch.equal(due.classes["action"][rows, step], facts.get("action")[:, end + step].clamp(max=399))


@pytest.mark.parametrize("kind", ["sequence", "window"])
def test_gradients_flow_back_through_all_own_frames(blocks: Path, kind: str) -> None:
    trainer = begin_alone(blocks, kind)
    (batch,) = trainer.feed.batches(1)
    assert batch.excursion is not None
    said, due = go_alone(
        trainer.model, trainer.training.mode, batch.excursion, Feedback(trainer.feed.view.layout), trainer.parallel
    )
    last = (said.numbers["continuous"] - due.numbers["continuous"])[:, -1].square().sum()
    # A head's weights reach the last error in each of the steps before; the first one's share is told by cutting it.
    whole = torch.autograd.grad(last, trainer.model.get_parameter("continuous_head.bias"), retain_graph=True)[0]
    alone = 2 * (said.numbers["continuous"] - due.numbers["continuous"])[:, -1].sum(0).flatten()
    scale = trainer.config.model.output_scale
    own = torch.tensor([not field.is_whole for field in trainer.feed.view.layout.number_targets["continuous"]]).repeat(
        2
    )
    assert not torch.allclose(whole[own], alone[own] * scale, rtol=1e-3)
    assert torch.allclose(whole[own], batch.excursion.length * alone[own] * scale, rtol=0.5)


@pytest.mark.parametrize("kind", ["sequence", "window", "ahead"])
def test_no_gradient_flows_through_what_the_model_sees_of_its_own_frames(blocks: Path, kind: str) -> None:
    trainer = begin_alone(blocks, kind)
    (batch,) = trainer.feed.batches(1)
    assert batch.excursion is not None
    seen: list[Inputs] = []
    trainer.model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    feedback = Feedback(trainer.feed.view.layout)
    said, _ = go_alone(trainer.model, trainer.training.mode, batch.excursion, feedback, trainer.model)
    assert len(seen) >= batch.excursion.length and said.numbers["continuous"].requires_grad
    assert not any(inputs.floats.requires_grad or inputs.controls.requires_grad for inputs in seen)


@pytest.mark.parametrize("kind", ["sequence", "window"])
def test_frames_behind_a_games_end_do_not_count(blocks: Path, kind: str) -> None:
    config = configure(KINDS[kind])
    feed = Feed(open_data(config, blocks), config, Worker(device=CPU))
    seen = 0
    for step in range(1, 2 * feed.plan.steps_per_epoch, 2):
        (batch,) = feed.batches(step)
        excursion = batch.excursion
        assert excursion is not None
        feedback, trainer = Feedback(feed.view.layout), begin_alone(blocks, kind)
        said, due = go_alone(trainer.model, config.training.mode, excursion, feedback, trainer.parallel)
        assert said.numbers["continuous"].shape[:2] == due.valid.shape
        ordinary = count_terms(batch.targets)
        for (term, own), found in zip(count_terms(due).items(), batch.denominators, strict=True):
            assert float(found) == pytest.approx(max(float(own), float(ordinary[term])))
        assert batch.targets_in_all == int(due.valid.sum())
        seen += int((~due.valid).sum())
        if seen:
            break
    assert seen, "no batch reached a game's end"


def test_parts_of_a_batch_add_up_to_the_whole(blocks: Path) -> None:
    gradients = []
    for parts in (1, 4):
        trainer = begin(configure({**KINDS["sequence"], "training.batch_parts": parts}), blocks)
        loss = torch.zeros(())
        for batch in trainer.feed.batches(1):
            assert batch.excursion is not None
            said, due = go_alone(
                trainer.model, "sequence", batch.excursion, Feedback(trainer.feed.view.layout), trainer.parallel
            )
            loss = loss + compute_loss(said, due, trainer.config.loss_weights, batch.denominators)[0]
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]))
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-6)


def test_a_model_learns_alone(blocks: Path) -> None:
    changes = {**ON, **PRIORS, "training.num_epochs": 12, "training.lr": 1e-2, "self_forcing.unroll_length": 4}
    trainer = begin(configure(changes), blocks)
    losses = []
    for step in range(0, 40):
        trainer.learner.run(step, trainer.find_rate(step), trainer.feed.batches(step))
        if step % 2:
            losses.append(float(trainer.learner.sums.totals[0]))
        trainer.learner.sums.reset()
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
