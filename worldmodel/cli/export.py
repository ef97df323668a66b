"""`worldmodel export`: a run's model for other programs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import Positional

from worldmodel.cli.runs import RunVerb, choose_checkpoint
from worldmodel.cli.verb import Result, metavar
from worldmodel.errors import UserError

ENDINGS = {".pt": "upstream", ".safetensors": "safetensors", ".pt2": "torch"}
SECTIONS = ("name", "goal", "encoding", "model", "training", "self_forcing", "loss_weights")
"""Of the experiment, what goes with the model: not where its owner's data and accounts are."""


@dataclass(frozen=True, kw_only=True)
class Export(RunVerb):
    """Write a run's model for other programs."""

    opening: ClassVar[str] = "loading the checkpoint"

    out: Annotated[Positional[Path], metavar("FILE")]
    """The file to write."""
    format: Literal["upstream", "safetensors", "torch"] = "upstream"
    """upstream: a .pt that the users' model classes load. safetensors: the weights, with the experiment as metadata.
    torch: a .pt2 of one step (torch.export), that torch runs without this package. The last two suit every run."""
    checkpoint: Annotated[str | None, metavar("best|newest|STEP")] = None
    """Which one; default: the best where one has been named, else the newest."""

    def run(self) -> Result:
        from worldmodel.experiment.config_file import as_values
        from worldmodel.model.build import build_model
        from worldmodel.model.exchange import export_checkpoint
        from worldmodel.model.export import export_step, export_weights
        from worldmodel.run.run_folder import read_config
        from worldmodel.training.checkpoint import load_checkpoint

        self._check_file()
        location, record = self.find()
        chosen = choose_checkpoint(location, self.checkpoint)
        config, checkpoint = read_config(location), load_checkpoint(chosen)
        model = build_model(replace(config.model, backend="auto"), config.encoding.layout)
        model.load_state_dict(dict(checkpoint.weights))
        state = checkpoint.state
        about = {
            "run": record.name, "checkpoint": chosen.name, "step": state.step, "epoch": state.epoch,
            "untrained": list(record.unrecorded),
            "experiment": {name: value for name, value in as_values(config).items() if name in SECTIONS},
        }  # fmt: skip
        if self.format == "upstream":
            export_checkpoint(model, self.out, epoch=state.epoch - 1)  # theirs count from 0
        elif self.format == "safetensors":
            export_weights(model, self.out, about)
        else:
            export_step(model, self.out, about, mode=config.training.mode)
        return {"checkpoint": str(chosen), "step": state.step, "format": self.format, "file": str(self.out)}

    def _check_file(self) -> None:
        if self.out.is_dir() or not self.out.parent.is_dir():
            raise UserError(f"{self.out} cannot be written: name a file, in a folder that exists")
        fitting = ENDINGS.get(self.out.suffix, self.format)
        if fitting != self.format:
            raise UserError(f"{self.out}: its ending means --format {fitting}, found {self.format}: change one of them")
