"""The plan of a run: everything that its numbers depend on, and its hash."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mswitch.models.config import ModelConfig, TrainConfig
from mswitch.models.nn.flops import count_forward_flops, count_training_step_flops
from mswitch.models.training.evaluation_steps import evaluation_steps
from mswitch.pipelines.identities import identifying, identifying_settings
from mswitch.pipelines.outputs import config_hash

#: Settings that may change when a run continues: they change results only by rounding. The last two
#: settings change results only after a bad loss.
FREE = (
    *("data_parallel", "expert_parallel", "model_parallel", "remat", "attention"),
    *("on_bad_loss", "loss_spike"),
)


@dataclasses.dataclass(frozen=True)
class Origin:
    """The checkpoint that a fine-tuning begins with.

    Attributes:
        path: its run directory or URL.
        step: the checkpoint's step.
        keep_moments: whether the optimizer keeps its moments and its count of steps.
        steps_counted: steps that the optimizer has counted by then; 0 with fresh moments.
        chain: `preset` and `config_hash` of its run, its `examples`, and its own `origin`.
    """

    path: str | Path
    step: int
    keep_moments: bool
    steps_counted: int
    chain: Mapping[str, Any]

    @property
    def identity(self) -> dict[str, Any]:
        """Properties of the initial checkpoint that a run's results depend on."""
        return {
            "step": self.step,
            "keep_moments": self.keep_moments,
            "steps_counted": self.steps_counted,
            **self.chain,
        }


@dataclasses.dataclass(frozen=True)
class Teacher:
    """The sparse run that a student is distilled from.

    Attributes:
        origin: its checkpoint.
        model: its architecture.
        train: its training settings, which decide how its layers are stored.
        soft_weight: share of the loss that is the cross-entropy with its predictions.
        temperature: temperature of the predictions in that share.
        init: whether the student begins with its parameters, except the experts.
        gather: initial values of the student's layers that are sparse in the teacher.
    """

    origin: Origin
    model: ModelConfig
    train: TrainConfig
    soft_weight: float
    temperature: float
    init: bool
    gather: str

    @property
    def identity(self) -> dict[str, Any]:
        """Everything about the teacher that a student's results depend on."""
        settings = (name for name in identifying(self) if name not in ("origin", "model", "train"))
        return {
            "step": self.origin.step,
            **self.origin.chain,
            **{name: getattr(self, name) for name in settings},
        }


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """Everything that a run's results depend on.

    Attributes:
        preset: name of the model.
        model: its configuration, with the vocabulary of the examples.
        train: training settings.
        examples: identity of its data: `config_hash` and `vocabulary_sha256`; with several tasks,
            `tasks`, the hash of each.
        languages: per leaf (a language, or `task/language`) `train_records`, `train_tokens`,
            `train_bytes`, `rate`.
        mixture: the definition of its `mswitch.tasks.batches.multitask.TaskMixture`.
        origin: source of its parameters; None draws them.
        teacher: the teacher it is distilled from, if any.
        directories: examples directory of each task; a command that takes one uses the first.
        notes: further entries of config.json.
        horizons: earlier last steps, before the run was extended, ascending.
    """

    preset: str
    model: ModelConfig
    train: TrainConfig
    examples: Mapping[str, Any]
    languages: Mapping[str, Mapping[str, Any]]
    mixture: Mapping[str, Any]
    origin: Origin | None = None
    teacher: Teacher | None = None
    directories: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    horizons: tuple[int, ...] = ()

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that must be equal for two runs to be the same."""
        return {
            "preset": self.preset,
            "model": identifying_settings(self.model),
            "train": without_free(identifying_settings(self.train)),
            "examples": dict(self.examples),
            "mixture": dict(self.mixture),
            **({} if self.origin is None else {"origin": self.origin.identity}),
            **({} if self.teacher is None else {"teacher": self.teacher.identity}),
        }

    @property
    def hash(self) -> str:
        """Hash of the identity, in 16 hex digits."""
        return config_hash("train", self.identity)

    def flops_per_step(self, inputs_length: int, targets_length: int) -> int:
        """Return the matrix-product FLOPs of a step, including the teacher's forward pass."""
        lengths = (self.train.rows, inputs_length, targets_length)
        flops = count_training_step_flops(self.model, *lengths)
        if self.teacher is None or not self.teacher.soft_weight:
            return flops
        # The teacher drops no token. Its FLOPs do not include unused slots.
        model = dataclasses.replace(self.teacher.model, capacity_factor=1.0)
        return flops + count_forward_flops(model, *lengths)

    @property
    def evaluation_steps(self) -> tuple[int, ...]:
        """Steps whose checkpoints are kept and evaluated."""
        return evaluation_steps(self.train, self.horizons)


def without_free(train: Mapping[str, Any]) -> dict[str, Any]:
    """Return the training settings that must stay the same when a run continues."""
    return {name: value for name, value in train.items() if name not in FREE}
