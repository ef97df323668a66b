"""`worldmodel evaluate`: a run's checkpoint on the validation games."""

from __future__ import annotations

from dataclasses import dataclass

from worldmodel.cli.runs import RunVerb
from worldmodel.cli.verb import Result
from worldmodel.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Evaluate(RunVerb):
    """Evaluate a run's best checkpoint on its validation games, beside the baselines that need no training."""

    def run(self) -> Result:
        raise UserError("`worldmodel evaluate` is not built yet")
