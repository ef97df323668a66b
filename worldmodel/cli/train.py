"""`worldmodel train`: an experiment file, on some data, into a run folder."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional

from worldmodel.cli.verb import Result, Verb, metavar, report
from worldmodel.errors import UserError

if TYPE_CHECKING:
    from worldmodel.experiment.config import ExperimentConfig
    from worldmodel.run.budget import Budget


@dataclass(frozen=True, kw_only=True)
class ExperimentVerb(Verb):
    """A verb about an experiment file, with a preset and options applied."""

    config: Annotated[Positional[Path], metavar("CONFIG")]
    """Experiment file (YAML)."""
    data: Annotated[str | None, metavar("SRC|BLOCKS")] = None
    """Folder or URI of games or blocks; None: the file's data.dataset_dir."""
    epochs: Annotated[int | None, metavar("N")] = None
    """Epochs in total, also after a resume; None: the file's training.num_epochs."""
    preset: Annotated[str | None, metavar("laptop|round1|a100|h100|l4")] = None
    """Named overrides: laptop (two CPU cores, minutes), round1 (the published setting), a100, h100, l4 (one GPU)."""
    storage: Annotated[str | None, metavar("DIR")] = None
    """Folder or URI that holds run folders; None: the file's save_dir (runs)."""
    budget_usd: Annotated[float | None, metavar("DOLLARS")] = None
    """Dollars that may be spent; None: any amount."""

    def run(self) -> Result:
        raise NotImplementedError

    def read_experiment(self) -> tuple[ExperimentConfig, str]:
        """The experiment with preset and options applied, and what people should know of it.

        Raises:
            UserError: the file, the preset or an option is wrong.
        """
        from worldmodel.experiment.config_file import describe_changes, load_experiment, override
        from worldmodel.experiment.presets import apply_preset

        config, lines = load_experiment(self.config), []
        if self.preset:
            config, set_by_preset = apply_preset(self.preset, config)
            lines += [f"--preset {self.preset} sets", *(f"  {k}: {v}" for k, v in set_by_preset.items())]
        config = override(config, self.list_options(), source="options")
        changes = [f"  {key}: {value} (default {default})" for key, default, value in describe_changes(config)]
        lines += [f"{config.name} differs from the defaults in", *changes] if changes else [config.name]
        return config, "\n".join(lines)

    def list_options(self) -> dict[str, Any]:
        """Dotted keys and values that the options set."""
        options = {"data.dataset_dir": self.data, "training.num_epochs": self.epochs, "save_dir": self.storage}
        return {key: value for key, value in options.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Train(ExperimentVerb):
    """Train an experiment; whatever ends the run is written into its folder."""

    run_name: Annotated[str | None, metavar("NAME")] = None
    """Name of the run; None: the file's own (its stem)."""
    workers: Annotated[str, metavar("N|MIN..MAX")] = "1"
    """Ray Train workers; each is a process with its part of the data, and a GPU where there are any. With MIN..MAX
    the run goes on with fewer while machines are missing; batches and learning rate stay the same."""
    allow: Annotated[tuple[str, ...], metavar("FIELD")] = ()
    """Fields of the data that may be constant, or hold values that no game reaches; in a file: data.allow."""
    init: Annotated[str, metavar("FILE")] = ""
    """A .pt of the users' model classes whose weights the run begins with; empty: fresh weights."""
    auto_batch: bool = False
    """Try how many samples at a time fit into the device's memory, and cut batches into as few parts as that takes
    (training.batch_parts); what is learned stays the same."""
    resume: bool = False
    """Go on with the run of that name from its newest good checkpoint."""
    budget_hours: Annotated[float | None, metavar("HOURS")] = None
    """Hours that the run may take, all its attempts together; None: any."""

    def run(self) -> Result:
        import psutil

        from worldmodel.cli.runs import choose_checkpoint
        from worldmodel.run.train import TrainRequest, train
        from worldmodel.storage import Location
        from worldmodel.training.checkpoint_files import read_manifest

        config, introduction = self.read_experiment()
        least, most = read_workers(self.workers)
        request = TrainRequest(
            config=config, workers=most, least_workers=least, resume=self.resume, init=self.init,
            budget=self.read_budget(), introduction=introduction, auto_batch=self.auto_batch,
            since=psutil.Process().create_time(),
        )  # fmt: skip
        record = train(request, report)
        location = Location.of(config.save_dir) / record.name
        sha256 = ""
        with suppress(UserError):  # the run itself has ended well, whatever the store says now
            sha256 = read_manifest(choose_checkpoint(location, None)).sha256
        return {**record.model_dump(mode="json"), "location": str(location), "sha256": sha256}

    def judge(self, result: Result) -> int:
        return 130 if result["state"] == "stopped" else 0

    def render(self, result: Result) -> str:
        from worldmodel.run.reporter import format_duration

        is_stopped, best, place = result["state"] == "stopped", result["best"], result["location"]
        facts = {
            "run": f"{result['name']} {result['state']}" + (f": {result['reason']}" if result["reason"] else ""),
            "done": f"step {result['step']} of {result['total_steps']}, {result['epoch']} epochs, "
            f"{format_duration(result['seconds']['total'])}",
            **_describe_cost(result),
            "best": f"{best['metric']} {best['value']:.4f} at step {best['step']}" if best else "",
            "checkpoint": f"{place}/{result['checkpoint']}" if result["checkpoint"] else "",
            "card": f"{place}/card.md",
            "resume": result["resume_command"] if is_stopped else "",
            "evaluate": f"worldmodel evaluate {place}" if result["checkpoint"] else "",
            "fetch": f"worldmodel fetch {place} DEST --expect {result['sha256']}" if result["sha256"] else "",
            "W&B": result["wandb"] or "",
        }
        notes = [f"note: {note}" for note in result["notes"] if not (result["wandb"] and result["wandb"] in note)]
        return "\n".join([super().render({name: text for name, text in facts.items() if text}), *notes])

    def read_budget(self) -> Budget:
        """The limits of the options. UserError where one is not a number above 0."""
        from worldmodel.run.budget import Budget

        return Budget(hours=self.budget_hours, usd=self.budget_usd)

    def list_options(self) -> dict[str, Any]:
        options = {"name": self.run_name, "data.allow": self.allow or None}
        return {**super().list_options(), **{key: value for key, value in options.items() if value is not None}}


def read_workers(text: str) -> tuple[int, int]:
    """The least and the most workers that "N" or "MIN..MAX" asks for. UserError where it asks for something else."""
    first, dots, last = text.partition("..")
    numbers = [part.strip() for part in ((first, last) if dots else (first, first))]
    if not all(number.isdecimal() for number in numbers) or not 1 <= int(numbers[0]) <= int(numbers[1]):
        raise UserError(f"--workers {text}: expected a number of workers, or the least and the most, as 2..8")
    return int(numbers[0]), int(numbers[1])


def _describe_cost(result: Result) -> dict[str, str]:
    """What the run cost, beside what its first steps promised."""
    from worldmodel.run.estimate import describe_estimate
    from worldmodel.run.record import RunRecord
    from worldmodel.run.reporter import format_usd

    record = RunRecord.model_validate(dict(result))
    return {
        "cost": "" if record.cost_usd is None else format_usd(record.cost_usd),
        "estimate": describe_estimate(record) if record.estimate else "",
    }
