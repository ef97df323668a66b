"""`worldmodel train`: an experiment file, on some data, into a run folder."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction

from worldmodel.cli.verb import Result, Verb, metavar, report
from worldmodel.errors import UserError
from worldmodel.progress import showing_progress

if TYPE_CHECKING:
    from worldmodel.experiment.layers import Resolved
    from worldmodel.run.budget import Budget


@dataclass(frozen=True, kw_only=True)
class ExperimentVerb(Verb):
    """A verb about an experiment: built-in defaults < scale < file < --set and the other options."""

    config: Annotated[Positional[Path], metavar("CONFIG")]
    """Experiment file (YAML); what it sets wins over the scale."""
    scale: Annotated[str, metavar("full|laptop|a100|h100|l4|published")] = ""
    """What the machine decides: full (4.3 million parameters), laptop (two CPU cores, minutes), a100, h100, l4 (one
    GPU), published (the setting of Round 1's numbers); default: the file's `scale:`, else built-in defaults."""
    set: Annotated[tuple[tuple[str, ...], ...], metavar("KEY=VALUE"), UseAppendAction] = ()
    """Settings over the file's, as training.lr=0.001. (repeatable)"""
    data: Annotated[str, metavar("SRC|BLOCKS")] = ""
    """Folder or URI of games or blocks; default: the file's data.dataset_dir."""
    epochs: Annotated[int | None, metavar("N")] = None
    """Epochs in total, also after a resume; default: the experiment's training.num_epochs."""
    storage: Annotated[str, metavar("DIR")] = ""
    """Folder or URI that holds run folders; default: the file's save_dir (runs)."""
    preset: Annotated[str, metavar("SCALE")] = ""
    """Former name of --scale."""

    def run(self) -> Result:
        raise NotImplementedError

    def read_experiment(self) -> Resolved:
        """The experiment with all layers. UserError where the file, the scale or an option is wrong."""
        from worldmodel.experiment.layers import Layer, check_once, read_settings, resolve_file

        scale, notes = choose_scale(self.scale, self.preset)
        settings = read_settings(setting for group in self.set for setting in group)
        options = self.list_options()
        check_once(settings, options, ("--set", "an option of its own"))
        layers = [Layer.of("--set", settings), Layer.of("option", options)]
        found = resolve_file(self.config, scale, layers)
        return replace(found, notes=(*notes, *found.notes))

    def list_options(self) -> dict[str, Any]:
        """Dotted keys and values that the options set."""
        options = {"data.dataset_dir": self.data, "training.num_epochs": self.epochs, "save_dir": self.storage}
        return {key: value for key, value in options.items() if value not in (None, "")}


def choose_scale(scale: str, preset: str) -> tuple[str, tuple[str, ...]]:
    """The scale that is asked for ("": none), and what to say of it. UserError for an unknown one, or two."""
    from worldmodel.experiment.scales import find_scale

    if scale and preset and find_scale(scale) != find_scale(preset, "--preset"):
        raise UserError(f"--scale {scale} and --preset {preset}: expected one of them; --preset is the former name")
    found = find_scale(scale) if scale else find_scale(preset, "--preset") if preset else ""
    text = f"--preset is called --scale {found} now, and the experiment file wins over it (it was the other way round)"
    return found, (text,) if preset else ()


def introduce(found: Resolved) -> str:
    """What people should know of an experiment before it is trained."""
    from worldmodel.experiment.config_file import describe_changes

    changes = [
        f"  {key}: {value} (default {default}; {found.origins.get(key, 'implied')})"
        for key, default, value in describe_changes(found.config)
    ]
    head = f"{found.config.name} differs from the defaults in" if changes else found.config.name
    return "\n".join([*(f"note: {note}" for note in found.notes), head, *changes])


@dataclass(frozen=True, kw_only=True)
class Train(ExperimentVerb):
    """Train an experiment; whatever ends the run is written into its folder."""

    run_name: Annotated[str, metavar("NAME")] = ""
    """Name of the run; default: the file's own (its stem)."""
    workers: Annotated[str, metavar("N|MIN..MAX")] = "1"
    """Ray Train workers; each is a process with its part of the data, and a GPU where there are any. With MIN..MAX
    the run goes on with fewer while machines are missing; batches and learning rate stay the same."""
    allow: Annotated[tuple[str, ...], metavar("FIELD")] = ()
    """Fields of the data that may be constant, or hold values that no game reaches; in a file: data.allow."""
    init: Annotated[str, metavar("FILE")] = ""
    """A .pt of the users' model classes whose weights the run begins with; default: fresh weights."""
    auto_batch: bool = False
    """Try how many samples at a time fit into the device's memory, and cut batches into as few parts as that takes
    (training.batch_parts); what is learned stays the same."""
    resume: bool = False
    """Go on with the run of that name from its newest good checkpoint."""
    budget_usd: Annotated[float | None, metavar("DOLLARS")] = None
    """Dollars that may be spent; default: any amount."""
    budget_hours: Annotated[float | None, metavar("HOURS")] = None
    """Hours that the run may take, all its attempts together; default: any."""

    def run(self) -> Result:
        import psutil

        from worldmodel.cli.runs import choose_checkpoint

        with showing_progress("reading the experiment"):
            from worldmodel.run.train import TrainRequest, train
            from worldmodel.storage import Location
            from worldmodel.training.checkpoint_files import read_manifest

            found = self.read_experiment()
        config = found.config
        least, most = read_workers(self.workers)
        request = TrainRequest(
            config=config, workers=most, least_workers=least, resume=self.resume, init=self.init,
            budget=self.read_budget(), introduction=introduce(found), auto_batch=self.auto_batch, origins=found.origins,
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
        options = {"name": self.run_name, "data.allow": self.allow}
        return {**super().list_options(), **{key: value for key, value in options.items() if value}}


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
