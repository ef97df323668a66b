"""What a model knows before any learning: each choice alone, against the rule that it stands for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.model.golden import random_batch
from worldmodel.encoding import EncodingConfig, FeatureLayout
from worldmodel.errors import UserError
from worldmodel.experiment.config import LossWeights
from worldmodel.features.batch import Predictions
from worldmodel.features.context import ContextFrames
from worldmodel.model.build import build_model
from worldmodel.model.config import ModelConfig
from worldmodel.model.exchange import export_checkpoint
from worldmodel.model.world_model import STAY
from worldmodel.schema import FIELDS, Rule, Target, field_named
from worldmodel.training.baselines import CERTAIN, kinematic, persistence
from worldmodel.training.loss import DELTA_TERMS, compute_loss, count_terms, mask_term

SMALL = {"d_model": 32, "n_layers": 1, "d_state": 8, "headdim": 16, "dropout": 0.0, "hidden_dim": 24, "trunk_dim": 16}
LAYOUTS = [EncodingConfig().layout, EncodingConfig(state_age_as_embed=True, state_flags=True, lookahead=1).layout,
           EncodingConfig(targets="published").layout]  # fmt: skip


def predict(inputs: object, layout: object, **choices: object) -> Predictions:
    torch.manual_seed(0)
    model = build_model(ModelConfig(**SMALL, **choices), layout)  # type: ignore[arg-type]
    return model.eval()(inputs)[0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("arch", ["mamba2", "mlp"])
def test_before_training_the_kinematic_head_predicts_what_the_kinematic_baseline_does(
    layout: object, arch: str
) -> None:
    inputs, _, _ = random_batch(layout, batch=3, time=10, positions=1)
    found = predict(inputs, layout, arch=arch, kinematic_head=True, output_scale=0.05)
    expected = kinematic(inputs, layout)  # type: ignore[arg-type]
    for term in DELTA_TERMS & set(found.numbers):
        torch.testing.assert_close(found.numbers[term], expected.numbers[term], rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_before_training_the_copy_prior_keeps_every_action(layout: object) -> None:
    inputs, _, _ = random_batch(layout, batch=3, time=10, positions=10)
    found = predict(inputs, layout, copy_prior=20.0)
    expected = persistence(inputs, layout)  # type: ignore[arg-type]
    assert torch.equal(found.logits["action"].argmax(-1), expected.logits["action"].argmax(-1))


def test_the_copy_prior_is_one_learned_number() -> None:
    plain, prior = (
        build_model(ModelConfig(**SMALL, copy_prior=start), LAYOUTS[0])  # type: ignore[arg-type]
        for start in (0.0, 6.0)
    )
    extra = prior.state_dict().keys() - plain.state_dict().keys()
    assert extra == {"copy_logit"} and prior.get_parameter("copy_logit").shape == ()


def test_predicted_speed_changes_move_the_positions() -> None:
    layout = LAYOUTS[0]
    inputs, _, _ = random_batch(layout, batch=2, time=10, positions=1)
    torch.manual_seed(0)
    model = build_model(ModelConfig(**SMALL, kinematic_head=True), layout).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        model.get_parameter("velocity_head.weight").zero_()
        before = model(inputs)[0]
        place = layout.number_targets["velocity"].index(field_named("speed_attack_x"))
        model.get_parameter("velocity_head.bias")[place] += 0.5 * field_named("speed_attack_x").scale
        after = model(inputs)[0]
    moved = (after.numbers["continuous"] - before.numbers["continuous"])[..., 0, :] / field_named("x").scale
    x = layout.number_targets["continuous"].index(field_named("x"))
    frozen = moved[..., x].abs() < 1e-6
    assert torch.all(frozen | torch.isclose(moved[..., x], torch.tensor(0.5), atol=1e-4))
    assert torch.all(moved[..., [i for i in range(moved.size(-1)) if i != x]].abs() < 1e-6)


def test_the_output_scale_scales_deltas_and_nothing_else() -> None:
    layout = LAYOUTS[0]
    inputs, _, _ = random_batch(layout, batch=2, time=10, positions=1)
    torch.manual_seed(0)
    full, small = (build_model(ModelConfig(**SMALL, output_scale=s), layout).eval() for s in (1.0, 0.25))  # type: ignore[arg-type]
    small.load_state_dict(full.state_dict())
    plain, scaled = full(inputs)[0], small(inputs)[0]
    for term, values in plain.numbers.items():
        torch.testing.assert_close(scaled.numbers[term], values * (0.25 if term in DELTA_TERMS else 1.0))
    for term, values in plain.logits.items():
        torch.testing.assert_close(scaled.logits[term], values)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("arch", ["mamba2", "mlp"])
def test_before_training_the_rule_prior_predicts_what_the_schemas_rules_say(layout: FeatureLayout, arch: str) -> None:
    inputs, _, _ = random_batch(layout, batch=3, time=10, positions=1)
    found = predict(inputs, layout, arch=arch, rule_prior=True, output_scale=0.05)
    expected, frames = persistence(inputs, layout), ContextFrames(inputs, layout)
    for term, fields in layout.number_targets.items():
        for place, field in enumerate(fields):
            if field.rule is Rule.COUNT_DOWN:
                left = frames.number(field.name) - 1 - layout.config.lookahead
                torch.testing.assert_close(found.numbers[term][..., place] / field.scale, left.clamp(min=0))
            elif field.target is Target.VALUE:
                torch.testing.assert_close(found.numbers[term][..., place], expected.numbers[term][..., place])
    torch.manual_seed(0)
    free = build_model(ModelConfig(**SMALL, arch=arch, output_scale=0.05), layout).eval()(inputs)[0]  # type: ignore[arg-type]
    if "binary" in found.numbers:
        held = expected.numbers["binary"] * STAY / CERTAIN
        torch.testing.assert_close(found.numbers["binary"], free.numbers["binary"] + held)
    for term, logits in found.logits.items():
        held = F.one_hot(expected.logits[term].argmax(-1), logits.size(-1)) * (0.0 if term == "action" else STAY)
        torch.testing.assert_close(logits, free.logits[term] + held)


def test_what_comes_seldom_and_by_leaps_is_learned_as_its_mean_and_not_its_median() -> None:
    layout = LAYOUTS[0]
    _, _, targets = random_batch(layout, batch=64, time=10, positions=10)
    percent, x = (layout.number_targets["continuous"].index(FIELDS[name]) for name in ("percent", "x"))
    true = targets.numbers["continuous"]
    for place, name in ((percent, "percent"), (x, "x")):
        hit = (torch.arange(true[..., place].numel()) % 10 == 0).view_as(true[..., place])
        true[..., place] = torch.where(hit, 12 * FIELDS[name].scale, 0.0)
    said = {term: torch.zeros_like(values).requires_grad_() for term, values in targets.numbers.items()}
    logits = {term: torch.zeros(*true.shape[:3], field.vocabulary) for term, field in layout.class_targets.items()}
    level = torch.zeros(true.size(-1), requires_grad=True)
    best = torch.optim.LBFGS([level], max_iter=200, line_search_fn="strong_wolfe")

    def weigh() -> torch.Tensor:
        best.zero_grad()
        predicted = Predictions({**said, "continuous": level.expand_as(true)}, logits)
        loss = compute_loss(predicted, targets, LossWeights(), smooth_l1_beta=0.005)[1]["continuous"]
        loss.backward()
        return loss

    best.step(weigh)
    counts = mask_term(targets, "continuous").expand_as(true)
    mean = (true * counts)[..., percent].sum() / counts[..., percent].sum()
    assert level[percent].item() == pytest.approx(mean.item(), rel=0.02)
    assert level[x].item() < 0.1 * (true * counts)[..., x].sum().item() / counts[..., x].sum().item()


def test_smooth_l1_is_torchs_on_deltas_and_changes_nothing_else() -> None:
    layout = LAYOUTS[0]
    inputs, _, targets = random_batch(layout, batch=4, time=10, positions=10)
    predictions = predict(inputs, layout)
    _, squared = compute_loss(predictions, targets, LossWeights())
    _, smooth = compute_loss(predictions, targets, LossWeights(), smooth_l1_beta=0.05)
    counts = count_terms(targets)
    for term, value in smooth.items():
        if term not in DELTA_TERMS:
            assert torch.equal(value, squared[term])
            continue
        error = torch.stack([
            F.smooth_l1_loss(said, true, beta=max(0.05, field.leap * field.scale), reduction="none")
            for field, said, true in zip(
                layout.number_targets[term], predictions.numbers[term].unbind(-1), targets.numbers[term].unbind(-1),
                strict=True,
            )
        ], -1)  # fmt: skip
        torch.testing.assert_close(value, (error * mask_term(targets, term)).sum() / counts[term])


@pytest.mark.parametrize(
    "choice", [{"kinematic_head": True}, {"output_scale": 0.5}, {"copy_prior": 1.0}, {"rule_prior": True}]
)
def test_a_model_that_the_users_classes_cannot_express_is_not_exported(
    choice: dict[str, object], tmp_path: Path
) -> None:
    model = build_model(ModelConfig(**SMALL, **choice), LAYOUTS[0])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="kinematic_head"):
        export_checkpoint(model, tmp_path / "x.pt", epoch=0)


def test_a_model_without_the_later_heads_is_not_exported(tmp_path: Path) -> None:
    model = build_model(ModelConfig(**SMALL), EncodingConfig(targets="published").layout)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"encoding\.targets"):
        export_checkpoint(model, tmp_path / "x.pt", epoch=0)
