"""`worldmodel rollout`: one rollout of a run's model, frame by frame, on the screen or in a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from worldmodel.cli.runs import RunVerb, choose_checkpoint
from worldmodel.cli.verb import Result, draw, metavar
from worldmodel.errors import UserError
from worldmodel.progress import showing_progress

SHOWN = ("x", "y", "percent", "stocks", "action")
"""Fields of the printed lines."""


@dataclass(frozen=True, kw_only=True)
class RollOut(RunVerb):
    """Let a run's model go on from a frame of a validation game, fed by itself and the inputs that were played."""

    opening: ClassVar[str] = "opening the model and its games"

    game: Annotated[str, metavar("MD5")] = ""
    """The beginning of the validation game's name; default: the first."""
    frame: Annotated[int, metavar("N")] = 300
    """The first frame that the model makes."""
    frames: Annotated[int, metavar("N")] = 60
    """Frames that the model makes on its own; 60 are a second."""
    temperature: Annotated[float, metavar("T")] = 0.0
    """0: the most likely actions; above 0, actions are drawn."""
    seed: Annotated[int, metavar("N")] = 0
    """Of what is drawn."""
    checkpoint: Annotated[str | None, metavar("best|newest|STEP")] = None
    """Which one; default: the best where one has been named, else the newest."""
    data: Annotated[str, metavar("SRC|BLOCKS")] = ""
    """Games or blocks; default: those that the run was trained on."""
    device: Annotated[str, metavar("cpu|cuda")] = ""
    """Where the model runs; default: the run's own device, or what there is."""
    out: Annotated[str, metavar("FILE.npz|FOLDER")] = ""
    """Save it: all fields, own and true, as NumPy arrays (FILE.npz), or as a parsed game in a folder of games."""

    def run(self) -> Result:
        from worldmodel.features.feedback import Choice
        from worldmodel.games.names import name_character, name_stage
        from worldmodel.rollout.loading import load_model, open_games
        from worldmodel.rollout.roller import Roller
        from worldmodel.rollout.saving import save_rollout
        from worldmodel.storage import Location

        choice = Choice(temperature=self.temperature, seed=self.seed)
        out = Location.of(self.out).local_path()
        if out is None:
            raise UserError(f"{self.out} is not on a disk of this machine, where a rollout is saved: name a path")
        location, _ = self.find()
        loaded = load_model(location, choose_checkpoint(location, self.checkpoint), self.device)
        dataset, notes = open_games(location, loaded.config, self.data)
        roller = Roller(loaded, dataset, choice=choice)
        with showing_progress() as tell:
            rollout = roller.roll([roller.find_start(self.game, self.frame)], self.frames, tell=tell)
        saved = save_rollout(rollout, out, source=f"{location.name} {loaded.checkpoint}") if self.out else ""
        length = int(rollout.lengths[0])
        short = [f"the game ends after {length} of the {self.frames} frames"] if length < self.frames else []
        return {
            "run": str(location), "checkpoint": loaded.checkpoint, "game": rollout.md5[0], "frame": self.frame,
            "stage": name_stage(int(rollout.stages[0])),
            "players": {f"P{n + 1}": name_character(int(c)) for n, c in enumerate(rollout.true["character"][0, 0])},
            "true_frames": length, "predicted": _to_lists(rollout.predicted), "true": _to_lists(rollout.true),
            "saved": str(saved), "notes": [*notes, *short],
        }  # fmt: skip

    def render(self, result: Result) -> str:
        """Every so many frames, a line for each player: own value, and the true one where it differs."""
        from rich.table import Table

        table = Table("frame", "", *SHOWN, box=None, padding=(0, 1, 0, 0))
        frames = len(result["predicted"]["x"])
        step = max(1, frames // 20)
        for time in [*range(0, frames, step), *([frames - 1] if (frames - 1) % step else [])]:
            for player, name in enumerate(result["players"]):
                values = (_show(result, field, time, player) for field in SHOWN)
                table.add_row(str(result["frame"] + time), name, *values)
        listed = ("run", "checkpoint", "game", "stage", "true_frames", "saved")
        facts = {**result["players"], **{key: result[key] for key in listed if result[key]}}
        notes = [f"note: {note}" for note in result["notes"]]
        return "\n".join([draw(table), "own value (true value, where it differs)", super().render(facts), *notes])


def _to_lists(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: values[0].tolist() for name, values in fields.items()}


def _show(result: Result, field: str, time: int, player: int) -> str:
    own, true = (_read(result[row], field, time, player) for row in ("predicted", "true"))
    if time >= result["true_frames"]:
        return f"{own:.1f}" if isinstance(own, float) else str(own)
    if isinstance(own, float):
        return f"{own:.1f} ({true:.1f})"
    return str(own) if own == true else f"{own} ({true})"


def _read(fields: dict[str, Any], field: str, time: int, player: int) -> Any:
    """A value; the action by its name."""
    from worldmodel.games.names import name_action

    value = fields[field][time][player]
    return name_action(value, fields["character"][time][player]) if field == "action" else value
