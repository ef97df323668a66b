"""`worldmodel config`: an experiment, complete, with the origin of each value."""

from __future__ import annotations

from dataclasses import dataclass

from worldmodel.cli.train import ExperimentVerb
from worldmodel.cli.verb import Result


@dataclass(frozen=True, kw_only=True)
class Config(ExperimentVerb):
    """Show the experiment that a file, a scale and settings make, and which of them set each value."""

    def run(self) -> Result:
        from worldmodel.experiment.config_file import as_values, to_yaml
        from worldmodel.experiment.layers import complete_origins

        found = self.read_experiment()
        origins = complete_origins(found.origins)
        text = to_yaml(found.config, origins)
        return {"config": as_values(found.config), "origins": origins, "notes": found.notes, "text": text}

    def render(self, result: Result) -> str:
        return "\n".join([*(f"# note: {note}" for note in result["notes"]), result["text"].rstrip()])
