"""The models against the users' own outputs, and against themselves, cut and stepped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.model.golden import MODELS, Golden
from worldmodel.model.build import build_model


@pytest.mark.parametrize(("arch", "encoding"), MODELS)
def test_users_weights_give_users_predictions(shared_folder: Path, arch: str, encoding: str) -> None:
    golden = Golden(shared_folder / "golden", arch, encoding)
    model = build_model(golden.config, golden.layout).eval()
    model.load_state_dict(golden.weights())
    with torch.no_grad():
        ours, _ = model(golden.inputs())
    theirs = golden.predictions("model")
    for term in theirs.numbers:
        torch.testing.assert_close(ours.numbers[term], theirs.numbers[term], atol=1e-5, rtol=0)
    for term in theirs.logits:
        torch.testing.assert_close(ours.logits[term], theirs.logits[term], atol=1e-5, rtol=0)
