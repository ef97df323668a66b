"""An experiment: everything that decides a run's result, in sections that keep the users' YAML keys.

Every field has its default here (or in the section's own module) and nowhere else; bounds stand in the annotations and
are checked by `worldmodel.experiment.config_file`, which reads and writes the YAML.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from worldmodel.encoding import EncodingConfig
from worldmodel.model.config import ModelConfig

Count = Annotated[int, Field(ge=1)]
Identifier = Annotated[int, Field(ge=0)]
CompileMode = Literal["auto", "off", "graph", "compile", "compile_graph"]
PartCount = Literal[1, 2, 4, 8]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which games an experiment uses; section `data`."""

    __pydantic_config__ = _STRICT

    dataset_dir: str | None = None
    """Folder or URI of games or blocks; None: given on the command line (`--data`), which wins over this."""
    max_games: Count | None = None
    """Number of games, the first in the data's own order; None: all."""
    stage_filter: Identifier | tuple[Identifier, ...] | None = None
    """Stage id or ids (see `worldmodel.schema.STAGE`); None: every stage."""
    character_filter: Identifier | tuple[Identifier, ...] | None = None
    """Character id or ids: both players' characters must be among them; None: every character."""
    end_method: Identifier | None = None
    """`game_end_method` that a game must have (2: by stocks, the users' "GAME"); None: any."""
    allow: tuple[str, ...] = ()
    """Fields that may raise an alarm in the data's audit (constant, values that no game reaches): known to be right."""
    split: Literal["md5", "first"] = "md5"
    """How validation games are named: `md5` by each game's hash (the same games in every data set), `first` takes the
    first `training.train_split` of the games for training, as published."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How the model is trained; section `training`."""

    __pydantic_config__ = _STRICT

    mode: Literal["sequence", "window"] = "sequence"
    """What a sample is: a sequence with a loss at every frame, or `model.context_len` frames and the one after."""
    sequence_length: Count = 64
    """Frames of a sequence that are predicted; sequence mode only."""
    batch_size: Count = 64
    """Samples (sequences or windows) per optimizer step, over all workers."""
    batch_parts: PartCount = 1
    """Parts of a batch, by partition of the data, that are computed one after another and added up: less memory. With 2
    parts, one worker and two learn the same to the last bit on CPUs."""
    swap_players: bool = False
    """Whether half of the samples are seen with the players in each other's place, in the next epoch the other half:
    the game has no first player. A frame has two targets over two epochs, one in each. False: as published."""
    num_epochs: Count = 2
    """Epochs in total, also after a resume; in one epoch every training frame is a target once."""
    max_steps: Count | None = None
    """Optimizer steps after which training ends early; None: `num_epochs` alone decides."""
    lr: Positive = 2e-3
    """Peak learning rate of AdamW."""
    weight_decay: Weight = 1e-5
    """AdamW's decoupled weight decay."""
    smooth_l1_beta: Positive | None = None
    """Scaled delta above which its error counts absolutely instead of squared; None: always squared, as published."""
    clip: Positive = 1.0
    """Largest norm of the whole gradient; a larger one is scaled down to it."""
    schedule: Literal["cosine", "epoch_cosine", "constant"] = "cosine"
    """Learning rate over steps: `cosine` falls at every step, `epoch_cosine` once an epoch (as published)."""
    warmup_pct: Annotated[float, Field(ge=0, lt=1)] = 0.04
    """Share (0 to 1) of all steps in which the learning rate rises linearly from 0; `cosine` only."""
    amp: bool = True
    """Matrix products in bfloat16 (autocast); weights stay float32."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the weights, the data order and dropout."""
    train_split: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Share (0 to 1) of the games that do not validate: trained on, but for the test part."""
    test_split: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share (0 to 1) of the games that only test, taken from `train_split` by md5: nothing is chosen on them.
    `data.split: first` has none, as published."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs; `auto`: CUDA where there is one. `null` in a file is `auto`."""
    compile: CompileMode = "auto"
    """How training steps reach the device. `graph`: each is captured once as a CUDA graph and replayed, as one launch;
    the losses are those of `off`, to the last bit. `compile`: the model's pass by torch.compile (about a minute at the
    start), which differs by rounding and by what dropout draws. `compile_graph`: both. `auto`: `graph` on a GPU, `off`
    on a CPU. Speed only."""
    deterministic: bool = False
    """Deterministic kernels, for a resume on a GPU that is exact to the last bit; slower. CPUs need none."""
    threads: Count | None = None
    """CPU threads of one worker; None: its share of the machine's cores."""
    eval_batch_size: Count | None = None
    """Samples per validation step; None: `batch_size`."""
    validation_games: Count | None = None
    """Number of games in each epoch's validation, a fixed sample by md5; None: all. The final evaluation uses all."""
    rollout_starts: Annotated[int, Field(ge=0)] = 64
    """Rollouts of 20 frames that each epoch's validation measures besides (`eval/summary_*_n64`); 0: none."""
    log_interval: Count | None = None
    """Steps between two lines of metrics; None: chosen so that a line comes every few seconds."""
    checkpoint_minutes: Positive = 10.0
    """Minutes between two checkpoints; each epoch's end is one too."""
    keep_last: Count = 2
    """Newest checkpoints that stay, besides every epoch's and the best; two, so that a damaged one ends no run."""
    best_metric: Annotated[str, Field(min_length=1)] = "val_metric/action_ce"
    """Validation metric that names the best checkpoint and drives ASHA. Not position MAE: few teleports (62 of 221,452
    coordinates) make a quarter of it, and a model with a third of the change accuracy can have the better one."""
    best_mode: Literal["min", "max"] = "min"
    """Whether a smaller or a larger `best_metric` is better; where `best_metric` alone is set, it decides."""


@dataclass(frozen=True, kw_only=True)
class SelfForcingConfig:
    """Training on the model's own predictions (`training/self_forcing.py`); section `self_forcing`."""

    __pydantic_config__ = _STRICT

    enabled: bool = False
    """Whether the model is also trained on its own predictions. In minutes of training, ordinary steps
    for the same time gave slightly better rollouts."""
    ratio: Count = 4
    """Ordinary batches for each self-forcing batch."""
    unroll_length: Count = 3
    """Frames that the model feeds itself."""
    curriculum: tuple[Count, ...] | None = None
    """`unroll_length` of each epoch, the last one for all later epochs; None: the same in all."""

    @property
    def longest(self) -> int:
        """The most frames that the model ever feeds itself."""
        return max(self.curriculum or (self.unroll_length,))


FORKS = 4
"""Self-forcing leaves a sequence behind each of its quarters but the last (`training/self_forcing.py`)."""


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weight of each loss term (named in the schema) in the sum that is minimised; section `loss_weights`."""

    __pydantic_config__ = _STRICT

    continuous: Weight = 1.0
    """Squared error of the scaled deltas of percent, position and shield."""
    velocity: Weight = 0.5
    """Squared error of the scaled deltas of the five speeds."""
    dynamics: Weight = 0.5
    """Squared error of scaled hitlag, stocks, combo (and hitstun)."""
    binary: Weight = 0.5
    """Binary cross-entropy of the flags."""
    action: Weight = 2.0
    """Cross-entropy of the action."""
    jumps: Weight = 0.5
    """Cross-entropy of the jumps left."""
    l_cancel: Weight = 0.3
    """Cross-entropy of the L-cancel."""
    hurtbox: Weight = 0.3
    """Cross-entropy of the hurtbox state."""
    ground: Weight = 0.3
    """Cross-entropy of the surface stood on."""
    last_attack: Weight = 0.3
    """Cross-entropy of the last attack landed."""
    action_change_weight: Weight = 1.0
    """Factor on the action's cross-entropy where the action differs from the last context frame's."""


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where metrics go besides the run folder's `metrics.jsonl`; section `tracking`."""

    __pydantic_config__ = _STRICT

    wandb: Literal["auto", "offline", "disabled"] = "auto"
    """`auto`: online with a key, else offline; `offline`: written to disk for `wandb sync`."""
    entity: str | None = None
    """W&B user or team; None: the key's own."""
    project: Annotated[str, Field(min_length=1)] = "worldmodel"
    """W&B project."""
    group: str | None = None
    """W&B group, such as the name of a grid."""
    tags: tuple[str, ...] = ()
    """W&B tags."""


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """One experiment, complete: the resolved content of one YAML file."""

    __pydantic_config__ = _STRICT

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "unnamed"
    """Name of the run (letters, digits, `.`, `_`, `-`); a file's stem where it names none."""
    goal: str = ""
    """What the experiment is to show, in a sentence; goes on the run's card."""
    data: DataConfig = field(default_factory=DataConfig)
    encoding: EncodingConfig = field(default_factory=EncodingConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    self_forcing: SelfForcingConfig = field(default_factory=SelfForcingConfig)
    loss_weights: LossWeights = field(default_factory=LossWeights)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    save_dir: Annotated[str, Field(min_length=1)] = "runs"
    """Folder or URI that holds run folders; `--storage` wins over this."""


def find_conflicts(config: ExperimentConfig) -> list[str]:
    """What is wrong with settings that are each valid alone; one line for each problem, with its dotted key."""
    problems = []
    longest = config.training.sequence_length + 1 - max(1, config.training.sequence_length // FORKS)
    if config.self_forcing.enabled and config.training.mode == "sequence" and config.self_forcing.longest > longest:
        problems.append(
            f"self_forcing.unroll_length: found {config.self_forcing.longest}, expected at most {longest}: a quarter "
            "of training.sequence_length goes before"
        )
    if config.model.arch == "mlp" and config.training.mode != "window":
        problems.append(
            'training.mode: found "sequence", expected "window": the MLP sees `model.context_len` frames at once'
        )
    if config.encoding.lookahead < 0:
        problems.append(f"encoding.lookahead: found {config.encoding.lookahead}, expected 0 or more frames")
    if not config.training.best_metric.startswith(("val_", "eval/")):
        problems.append(
            f"training.best_metric: found {config.training.best_metric!r}, expected a validation metric "
            "such as 'val_metric/action_ce', or one of rollouts such as 'eval/summary_pos_mae_k20_n64'"
        )
    return problems
