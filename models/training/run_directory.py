"""A run directory: what it holds, whether this run may use it, and how it is marked finished."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from mswitch.models.config import ModelConfig, TrainConfig
from mswitch.models.nn.flops import forward_flops, training_step_flops
from mswitch.models.training.evaluation_steps import evaluation_steps
from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.identities import identifying, identifying_settings
from mswitch.pipelines.outputs import (
    MARKER,
    canonical_json,
    config_hash,
    read_json_object,
    write_atomically,
)
from mswitch.pipelines.progress import say

if TYPE_CHECKING:  # it takes SentencePiece, which most that read runs do without
    from mswitch.pipelines.vocabulary.model import VocabularyModel

CONFIG = "config.json"
#: Settings of training that may change when a run continues: results are equal up to rounding, or
#: the same as long as no loss is bad.
FREE = (
    *("data_parallel", "expert_parallel", "model_parallel", "remat", "attention"),
    *("on_bad_loss", "loss_spike"),
)
CHECKPOINTS = "checkpoints"
#: Where the files of an evaluation say how it was computed, in the metadata of their schema.
EVALUATION_SETTINGS = b"mswitch.evaluation"
#: Column of an evaluation: which of UL2's denoisers a row is of, where there are several.
DENOISER = "denoiser"
#: Column of one: number of the cluster of near-duplicates that a document is in.
CLUSTER = "cluster"
#: Column of one that counts bytes: what sentinels and ends cost.
BORDER_NATS = "border_nats"
#: Of a checkpoint: what says that it is complete, its part that a model needs, and the other one.
METADATA = "_CHECKPOINT_METADATA"
PARAMETERS = "parameters"
OPTIMIZER = "optimizer"
#: Answers to tasks, and which step was best on validation.
PREDICTIONS = "predictions"
SELECTED = "selected.json"
#: How often test was read, beside the predictions of a task.
TEST_READS = "test_reads.json"

Config = TypeVar("Config", ModelConfig, TrainConfig)


@dataclasses.dataclass(frozen=True)
class Origin:
    """The checkpoint that a fine-tuning begins with.

    Attributes:
        path: its run directory, or the URL of that.
        step: which of its checkpoints.
        keep_moments: whether the optimizer keeps its moments and its count of steps.
        steps_counted: the steps that the optimizer has counted by then; 0 with fresh moments.
        chain: `preset` and `config_hash` of its run, its `examples`, and its own `origin`.
    """

    path: str | Path
    step: int
    keep_moments: bool
    steps_counted: int
    chain: Mapping[str, Any]

    @property
    def identity(self) -> dict[str, Any]:
        """What a run's numbers depend on."""
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
        train: how it was trained, and so how its layers are stored.
        soft_weight: share of the loss that is the cross-entropy with its predictions.
        temperature: of the predictions in that share.
        init: whether the student begins with its parameters, but for the experts.
        gather: what the layers that were sparse begin with.
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
        """What a student's numbers depend on."""
        settings = (name for name in identifying(self) if name not in ("origin", "model", "train"))
        return {
            "step": self.origin.step,
            **self.origin.chain,
            **{name: getattr(self, name) for name in settings},
        }


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """Everything a run's numbers depend on.

    Attributes:
        preset: name of the model.
        model: its configuration, with the vocabulary of the examples.
        train: how it is trained.
        examples: identity of its data: `config_hash` and `vocabulary_sha256`; of several tasks,
            `tasks`, the hash of each.
        languages: per leaf (a language, or `task/language`) `train_records`, `train_tokens`,
            `train_bytes`, `rate`.
        mixture: the definition of its `mswitch.tasks.batches.multitask.TaskMixture`.
        origin: where its parameters come from; None draws them.
        teacher: what it is distilled from, if anything.
        directories: where the examples of each task are; the first stand for all where a command
            takes one.
        notes: what config.json holds besides.
        horizons: where the run was to end before it was extended, ascending.
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
        """What makes two runs the same."""
        return {
            "preset": self.preset,
            "model": identifying_settings(self.model),
            "train": _without_free(identifying_settings(self.train)),
            "examples": dict(self.examples),
            "mixture": dict(self.mixture),
            **({} if self.origin is None else {"origin": self.origin.identity}),
            **({} if self.teacher is None else {"teacher": self.teacher.identity}),
        }

    @property
    def hash(self) -> str:
        """The identity in 16 hex digits."""
        return config_hash("train", self.identity)

    def flops_per_step(self, inputs_length: int, targets_length: int) -> int:
        """Matrix-product FLOPs of a step, the teacher's forward pass among them."""
        lengths = (self.train.rows, inputs_length, targets_length)
        flops = training_step_flops(self.model, *lengths)
        if self.teacher is None or not self.teacher.soft_weight:
            return flops
        # It has a slot for each token, and none to spare.
        model = dataclasses.replace(self.teacher.model, capacity_factor=1.0)
        return flops + forward_flops(model, *lengths)

    @property
    def evaluation_steps(self) -> tuple[int, ...]:
        """Steps whose checkpoints are kept and evaluated."""
        return evaluation_steps(self.train, self.horizons)


def _without_free(train: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out settings of training that may change."""
    return {name: value for name, value in train.items() if name not in FREE}


class Claim(NamedTuple):
    """What a run directory holds of a run before it is trained.

    Attributes:
        marker: what marks it as finished; None where steps are left.
        horizons: as in `RunPlan`.
        extends: whether it was to end at another step until now.
    """

    marker: dict[str, Any] | None = None
    horizons: Sequence[int] = ()
    extends: bool = False


def claim_run(out: Path, plan: RunPlan) -> Claim:
    """Check that `out` is new or holds this very run, or one of other steps that this continues.

    A step depends on no later one, so a run of more steps continues one of fewer: unless the rates
    of languages follow from the number of steps, as `max_epochs` makes them, or its learning rate
    has begun to decay. One of fewer steps continues one of more, as long as that is not further and
    kept the same checkpoints.
    """
    if not out.exists():
        return Claim()
    if not out.is_dir():
        raise UserError(f"{out} is a file: choose another --out")
    if not any(out.iterdir()):
        return Claim()
    if not (out / CONFIG).is_file():
        raise UserError(f"{out} holds files that are not a training run: choose a new --out")
    before = read_run(out)
    after = {"origin": None, "teacher": None, **json.loads(canonical_json(plan.identity))}
    steps = planned = plan.train.steps
    horizons: tuple[int, ...] = ()
    if isinstance(before["train"], dict):
        planned, horizons = before["train"].get("steps", steps), _horizons(before, steps)
        before["train"] = _without_free(before["train"]) | {"steps": steps}
    changed = []
    for part, wanted in after.items():
        found = before.get(part)
        if not isinstance(wanted, dict) or not isinstance(found, dict):
            changed += [part] if found != wanted else []
            continue
        # Where its inputs are is no setting.
        keys = [*wanted, *sorted(found.keys() - wanted.keys() - {"path", "paths"})]
        changed += [f"{part}.{key}" for key in keys if found.get(key) != wanted.get(key)]
    if changed:
        raise UserError(
            f"{out} holds a run with other settings ({', '.join(changed)} changed): "
            "choose another --out, or give the settings it began with"
        )
    if steps == planned:
        return Claim(read_marker(out), horizons)
    if not can_end_at(out, steps):
        if plan.train.decay and _last_step(out, planned) > planned - plan.train.decay:
            raise UserError(
                f"{out} is a run of {planned:,} steps whose learning rate has begun to fall to "
                f"zero (--decay {plan.train.decay}): give --steps {planned}, or choose another "
                "--out"
            )
        raise UserError(
            f"{out} is a run of {planned:,} steps: give --steps {planned}, or more to extend it, "
            "or choose another --out"
        )
    rates, others = (_rates(languages) for languages in (before["languages"], plan.languages))
    if rates != others:
        raise UserError(
            f"{out} is a run of {planned:,} steps, on which the rates of its languages depend "
            "(max_epochs): other steps need another --out"
        )
    return Claim(None, horizons, extends=True)


def can_end_at(out: Path, steps: int) -> bool:
    """Return whether a run may end at a step.

    No step that would then be another one is trained, and checkpoints so far are kept.
    """
    before = read_run(out)
    train, planned_end = train_config_of(before), before["train"]["steps"]
    last = _last_step(out, planned_end)
    begun = last > min(planned_end, steps) - train.decay
    if planned_end <= steps:
        return not (train.decay and begun)
    train = dataclasses.replace(train, steps=steps)
    kept, wanted = (
        [step for step in planned if step <= last]
        for planned in (before["eval_steps"], evaluation_steps(train, _horizons(before, steps)))
    )
    return kept == wanted and not begun


def _last_step(out: Path, planned_end: int) -> int:
    """Return the last step that a run has trained and saved."""
    if (out / MARKER).exists():
        return planned_end
    steps = (path.name for path in (out / CHECKPOINTS).glob("*"))
    return max((int(step) for step in steps if step.isdecimal()), default=0)


def _horizons(before: Mapping[str, Any], steps: int) -> tuple[int, ...]:
    """Where a run was to end before it was to end at a step."""
    ends = (*before.get("horizons", ()), before["train"].get("steps", steps))
    return tuple(end for end in ends if end < steps)


def _rates(languages: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    return {lang: float(counts["rate"]) for lang, counts in languages.items()}


def describe_run(
    out: Path,
    plan: RunPlan,
    examples: str | Path,
    measured: Mapping[str, Any],
    *,
    is_copy: bool = False,
) -> None:
    """Write config.json; an existing one only takes over settings that may change.

    From a run in a bucket, of which `out` is a copy, no relative path leads here.
    """
    if (out / CONFIG).is_file():
        before = read_run(out)
        now_set = {"train": identifying_settings(plan.train), "attention": measured["attention"]}
        after = {**before, **now_set}
        now = train_config_of(before)
        changed = [name for name in FREE if getattr(now, name) != getattr(plan.train, name)]
        if changed:
            say("train", f"continues with other settings: {', '.join(changed)}")
        if now.steps != plan.train.steps:
            say("train", f"was to end at step {now.steps:,}, and now at {plan.train.steps:,}")
            after |= {"eval_steps": list(plan.evaluation_steps), "horizons": list(plan.horizons)}
        if after != before:
            storage.write_json(out / CONFIG, after)
        return
    out.mkdir(parents=True, exist_ok=True)
    identity = plan.identity
    start = None if is_copy else out
    identity["examples"]["path"] = path_from(start, examples)
    if "tasks" in identity["examples"]:
        paths = {name: path_from(start, place) for name, place in plan.directories.items()}
        identity["examples"] |= {"path": next(iter(paths.values())), "paths": paths}
    if plan.origin is not None:
        identity["origin"]["path"] = path_from(start, plan.origin.path)
    if plan.teacher is not None:
        identity["teacher"]["path"] = path_from(start, plan.teacher.origin.path)
    storage.write_json(
        out / CONFIG,
        {
            **identity,
            "train": identifying_settings(plan.train),
            "config_hash": plan.hash,
            "languages": {lang: dict(counts) for lang, counts in plan.languages.items()},
            "eval_steps": list(plan.evaluation_steps),
            **plan.notes,
            **measured,
        },
    )


def path_from(run: Path | None, place: str | Path) -> str:
    """How a run names a place: relative to itself, or as it is where one of both is in a bucket."""
    if storage.is_remote(place):
        return str(place)
    return os.path.abspath(place) if run is None else os.path.relpath(place, run)


def finish_run(out: Path, plan: RunPlan, final_loss: float) -> None:
    """Mark the run finished."""
    identity = read_run(out)["config_hash"]
    marker = {"config_hash": identity, "step": plan.train.steps, "final_loss": final_loss}
    write_atomically(out / MARKER, canonical_json(marker) + "\n")


def read_run(run: Path) -> dict[str, Any]:
    """The config.json of a run directory."""
    if not (run / CONFIG).is_file():
        raise UserError(f"{run} is not a training run (no {CONFIG}): give what `train --out` made")
    described = read_json_object(run / CONFIG)
    missing = [
        part for part in ("model", "train", "examples", "config_hash") if part not in described
    ]
    if missing:
        raise UserError(
            f"{run / CONFIG} does not belong to a training run (it lacks {missing[0]!r}): give "
            "what `train --out` made; `mswitch import-hf` makes a run of a Hugging Face model"
        )
    return described


def read_marker(run: Path) -> dict[str, Any] | None:
    """What marks a run as finished: `config_hash`, `step`, `final_loss`; None if nothing does."""
    if not (run / MARKER).is_file():
        return None
    marker = read_json_object(run / MARKER)
    if not {"step", "final_loss"} <= marker.keys():
        raise UserError(
            f"{run / MARKER} does not belong to a training run: remove it, and the run continues"
        )
    return marker


def check_vocabulary(
    run: str | Path, described: Mapping[str, Any], examples: str | Path, manifest: Mapping[str, Any]
) -> None:
    """Check that a run has the examples' vocabulary; an imported run has only rows to compare."""
    size, sha256 = manifest["vocabulary_size"], manifest["vocabulary_sha256"]
    advice = "build examples with the vocabulary of the run (`mswitch examples build --vocab`)"
    _check_pieces(run, described, examples, size, sha256, advice)


def check_model_file(
    run: str | Path, described: Mapping[str, Any], vocabulary: "VocabularyModel"
) -> None:
    """Check that a run's vocabulary is this one; an imported run has rows to compare alone."""
    advice = "give the vocabulary that the model was trained with"
    of_file = vocabulary.path, vocabulary.size, vocabulary.model_sha256
    _check_pieces(run, described, *of_file, advice)


def _check_pieces(
    run: str | Path,
    described: Mapping[str, Any],
    place: str | Path,
    size: int,
    sha256: str,
    advice: str,
) -> None:
    rows, trained_on = described["model"]["vocabulary_size"], described["examples"]
    if rows < size:
        raise UserError(f"{run} has {rows:,} rows for the {size:,} pieces of {place}: {advice}")
    if trained_on and trained_on["vocabulary_sha256"] != sha256:
        raise UserError(
            f"{run} was trained with another vocabulary than that of {place}: {advice}; that of "
            f"the run is in {trained_on['path']} (relative to the run)"
        )


def model_of(config: Mapping[str, Any]) -> ModelConfig:
    """The model a config.json describes."""
    return _made(ModelConfig, config["model"])


def train_config_of(config: Mapping[str, Any]) -> TrainConfig:
    """The training configuration a config.json describes."""
    return _made(TrainConfig, config["train"])


def _made(kind: type[Config], settings: Mapping[str, Any]) -> Config:
    try:
        return kind(**settings)
    except TypeError as error:
        raise UserError(
            f"the run's {CONFIG} has unknown settings ({error}): restore it from a copy"
        ) from error
