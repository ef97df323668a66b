"""The experiment's configuration against the schema and its own promises."""

from __future__ import annotations

import ast
import dataclasses
import inspect

import pytest

from worldmodel import schema
from worldmodel.encoding import EncodingConfig
from worldmodel.experiment import config as module
from worldmodel.experiment.config import ExperimentConfig, LossWeights, ModelConfig, TrainingConfig, find_conflicts


def test_every_loss_term_of_the_schema_has_a_weight() -> None:
    terms = {field.loss for field in schema.PLAYER_FIELDS if field.loss}
    assert {f.name for f in dataclasses.fields(LossWeights)} == terms | {"action_change_weight"}


def test_every_setting_is_documented_under_its_name() -> None:
    for node in ast.parse(inspect.getsource(module)).body:
        if not isinstance(node, ast.ClassDef) or node.name == "ExperimentConfig":
            continue
        for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(statement, ast.AnnAssign):
                is_documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                assert is_documented, f"{node.name}.{ast.unparse(statement.target)}"


def test_the_defaults_are_a_valid_experiment() -> None:
    assert find_conflicts(ExperimentConfig()) == []


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (ExperimentConfig(model=ModelConfig(arch="mlp")), "training.mode"),
        (ExperimentConfig(encoding=EncodingConfig(lookahead=-1)), "encoding.lookahead"),
        (
            ExperimentConfig(self_forcing=module.SelfForcingConfig(enabled=True, unroll_length=50)),
            "self_forcing.unroll_length",
        ),
        (ExperimentConfig(training=TrainingConfig(best_metric="loss/total")), "training.best_metric"),
    ],
)
def test_settings_that_contradict_each_other_are_named(config: ExperimentConfig, key: str) -> None:
    (problem,) = find_conflicts(config)
    assert problem.startswith(f"{key}: found ")
    assert "expected" in problem
